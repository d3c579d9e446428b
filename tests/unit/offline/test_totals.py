"""Totals are byte for byte those of plain loops over the contract's prose, in every combination and on dumps of any make."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.kv.dump import DumpWriter, Stage
from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import CodecMode, EvaluatorSettings
from h2o_gate_plugin.offline.workers import thread_mapper

from .contract_oracle import contract_totals, totals_of

ALL = EvaluatorSettings(scope="layer_range")
CHUNKS, FRAMINGS, BLOCKS = (1, 3, 50), (0, 5, 16), (1, 4, 64)
MODES: tuple[dict[str, Any], ...] = (
    {"entry_mode": "per_meta"},
    *({"entry_mode": "aggregate", "aggregate_by_stage": by_stage} for by_stage in (False, True)),
    *(
        {"entry_mode": mode, "online_chunk_seq": chunk, "online_framing_bytes": framing, "aggregate_by_stage": by_stage}
        for mode, by_stage in (("chunked", False), ("chunked_grouped", False), ("chunked_grouped", True))
        for chunk, framing in zip(CHUNKS, FRAMINGS, strict=True)
    ),
)


def write_entry(folder: Path, run: str, layer: int, keys: U16, values: U16, seq_start: int, stage: Stage, fp32: bool = False) -> None:
    meta_path = DumpWriter(folder, run).write(layer, keys, values, seq_start, stage)
    if not fp32 or meta_path is None:
        return
    meta = json.loads(meta_path.read_text())
    meta_path.write_text(json.dumps(meta | {"dtype": "fp32", "bytes_per_elem": 4}))
    for name in (meta["k_file"], meta["v_file"]):
        binary = meta_path.parent / name
        wide = np.frombuffer(binary.read_bytes(), dtype="<f2").astype("<f4")
        binary.write_bytes((wide * np.float32(1.0001)).tobytes())  # so that rounding has something to do


def words(rng: np.random.Generator, shape: tuple[int, int, int], kind: str) -> U16:
    """``noise``: any words; ``constant``: one; ``rows``: few different rows; ``drift``: a walk along seq."""
    if kind == "noise":
        return rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    if kind == "constant":
        return np.full(shape, rng.integers(0, 1 << 16), dtype=np.uint16)
    if kind == "rows":
        return rng.integers(0, 1 << 16, (2, *shape[1:]), dtype=np.uint16)[rng.integers(0, 2, shape[0])]
    walk = np.cumsum(rng.normal(scale=0.02, size=shape), axis=0) + rng.normal(size=(1, *shape[1:]))
    return walk.astype(np.float16).view(np.uint16)


@pytest.fixture(scope="module")
def odd_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, two layers, both stages, two shapes in one layer, fp32 and fp16, entries shorter than a block or of one token."""
    folder = tmp_path_factory.mktemp("odd") / "dump"
    rng = np.random.default_rng(5)
    for run, layer in product(("a", "b"), (0, 1)):
        for start, n_seq, stage, fp32 in ((0, 11, "prefill", False), (11, 1, "decode", True), (12, 4, "decode", False)):
            shape = (n_seq, 2, 3)
            named: Stage = "prefill" if stage == "prefill" else "decode"
            write_entry(
                folder, run, layer, words(rng, shape, "drift"), words(rng, shape, "rows" if fp32 is False else "drift"), start, named, fp32
            )
    write_entry(folder, "a", 1, words(rng, (7, 1, 5), "drift"), words(rng, (7, 1, 5), "noise"), 16, "decode")
    return folder


@pytest.mark.parametrize("bitshuffle", [False, True], ids=["plain", "bitshuffle"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(str(value) for value in mode.values()))
def test_every_combination_gives_the_contract_s_totals(odd_dump: Path, mode: dict[str, Any], bitshuffle: bool) -> None:
    base = replace(ALL, bitshuffle=bitshuffle, **mode)
    codecs: tuple[tuple[CodecMode, int], ...] = (("legacy", 64), *(("adaptive_v22", block) for block in BLOCKS))
    for codec_mode, block in codecs:
        drawn = replace(base, codec_mode=codec_mode, adaptive_block_seq=block)
        assert totals_of(evaluate(odd_dump, drawn)) == contract_totals(odd_dump, drawn), drawn


@pytest.mark.parametrize("codec_mode", ["legacy", "adaptive_v22"])
@pytest.mark.parametrize("mode", MODES[::3], ids=lambda mode: " ".join(str(value) for value in mode.values()))
def test_entries_longer_than_a_block_give_the_contract_s_totals(dump_dir: Path, mode: dict[str, Any], codec_mode: CodecMode) -> None:
    drawn = EvaluatorSettings(**mode, codec_mode=codec_mode, adaptive_block_seq=16)
    assert totals_of(evaluate(dump_dir, drawn)) == contract_totals(dump_dir, drawn)


KINDS = st.sampled_from(["noise", "constant", "rows", "drift"])
ENTRIES = st.lists(st.tuples(st.integers(1, 40), st.booleans(), KINDS, KINDS), min_size=1, max_size=4)
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 2), st.integers(1, 3), st.integers(1, 5), ENTRIES),
    min_size=1, max_size=3, unique_by=lambda sequence: sequence[:2],
)  # fmt: skip
SETTINGS = st.builds(
    lambda mode, codec_mode, block, bitshuffle, level: replace(
        ALL, **mode, codec_mode=codec_mode, adaptive_block_seq=block, bitshuffle=bitshuffle, zstd_level=level
    ),
    st.sampled_from(MODES), st.sampled_from(["legacy", "adaptive_v22"]), st.integers(1, 70), st.booleans(), st.sampled_from([1, 3, 9, 19]),
)  # fmt: skip


@settings(max_examples=40)
@given(sequences=SEQUENCES, drawn=SETTINGS, seed=st.integers(0, 1 << 16), jobs=st.sampled_from([1, 3]))
def test_any_dump_gives_the_contract_s_totals(sequences: list[Any], drawn: EvaluatorSettings, seed: int, jobs: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        for run, layer, heads, dim, entries in sequences:
            start = 0
            for n_seq, fp32, k_kind, v_kind in entries:
                if fp32:  # random words hold infinities and NaN, which no fp32 test needs
                    k_kind = v_kind = "drift"
                keys, values = words(rng, (n_seq, heads, dim), k_kind), words(rng, (n_seq, heads, dim), v_kind)
                write_entry(Path(name), run, layer, keys, values, start, "decode" if start else "prefill", fp32)
                start += n_seq
        result = evaluate(Path(name), drawn, mapper=thread_mapper(jobs))
        assert totals_of(result) == contract_totals(Path(name), drawn)
