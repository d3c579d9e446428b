"""What the evaluator chooses, counts and skips, and what must never be counted. Its totals: test_totals.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.errors import CodecError, DumpError
from h2o_gate_plugin.kv.codec import U16, Part, Shape
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.offline.coding import MeasuredCodec, TensorByTensor
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND, EvaluatorSettings

from .contract_oracle import contract_totals, totals_of


@pytest.mark.parametrize("settings", [ONLINE_SIM, UPPER_BOUND], ids=["online_sim", "upper_bound"])
def test_the_two_presets_equal_plain_loops_too(dump_dir: Path, settings: EvaluatorSettings) -> None:
    result = evaluate(dump_dir, settings)
    assert totals_of(result) == contract_totals(dump_dir, settings)


def test_the_presets_are_the_contract_s() -> None:
    assert (ONLINE_SIM.entry_mode, ONLINE_SIM.online_chunk_seq, ONLINE_SIM.online_framing_bytes) == ("chunked_grouped", 192, 8)
    assert (UPPER_BOUND.entry_mode, UPPER_BOUND.aggregate_by_stage) == ("aggregate", True)
    for settings in (ONLINE_SIM, UPPER_BOUND):
        assert (settings.scope, settings.front_n, settings.stage, settings.adaptive_block_seq) == ("front_n", 2, "both", 64)


def test_joining_beats_chunks_and_chunks_cost_their_framing(dump_dir: Path) -> None:
    upper, online = evaluate(dump_dir, UPPER_BOUND), evaluate(dump_dir, ONLINE_SIM)
    assert online.raw_bytes == upper.raw_bytes
    assert online.framing_bytes == online.selected_chunks * 2 * 8
    unframed = evaluate(dump_dir, EvaluatorSettings(entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=0))
    assert online.compressed_bytes == unframed.compressed_bytes + online.framing_bytes


@pytest.mark.parametrize(
    ("settings", "layers", "entries"),
    [
        (EvaluatorSettings(), (0, 1), 12),
        (EvaluatorSettings(front_n=1), (0,), 6),
        (EvaluatorSettings(front_n=99), (0, 1, 2, 3), 24),
        (EvaluatorSettings(scope="layer_range", layer_start=1, layer_end=2), (1, 2), 12),
        (EvaluatorSettings(scope="layer_range", layer_start=2), (2, 3), 12),
        (EvaluatorSettings(scope="layer_ids", layer_ids=(3, 0)), (0, 3), 12),
        (EvaluatorSettings(stage="prefill"), (0, 1), 4),
        (EvaluatorSettings(stage="decode"), (0, 1), 8),
        (EvaluatorSettings(min_seq_len=30), (0, 1), 8),
        (EvaluatorSettings(min_seq_len=10, max_seq_len=30), (0, 1), 4),
    ],
    ids=repr,
)
def test_scopes_and_filters_choose_entries(dump_dir: Path, settings: EvaluatorSettings, layers: tuple[int, ...], entries: int) -> None:
    result = evaluate(dump_dir, settings)
    assert result.selected_layers == layers
    assert result.selected_entries == entries
    assert result.selected_entries + result.filtered_entries + result.skipped_entries == result.total_entries == 24


def test_groups_chunks_and_predictors_are_counted(dump_dir: Path) -> None:
    result = evaluate(dump_dir, EvaluatorSettings(entry_mode="chunked_grouped", online_chunk_seq=50, adaptive_block_seq=20))
    assert result.selected_groups == 4  # 2 runs x 2 layers
    assert result.selected_chunks == 4 * 3  # 114 tokens in 50, 50, 14
    for totals in (result.k, result.v):  # blocks of 20: 3 + 3 + 1 per group
        assert sum(totals.hi_mode_counts.values()) == sum(totals.lo_mode_counts.values()) == 4 * 7
    assert result.selected_dumps == ("run_a", "run_b")
    assert result.overlapping_entries == 0


def break_an_entry(folder: Path, how: str) -> None:
    layer = folder / "run_a" / "layer_1"
    if how == "size_mismatch":
        (layer / "v_t0_75.bin").write_bytes(b"\0" * 100)
    elif how == "missing_file":
        (layer / "k_t0_75.bin").unlink()
    elif how == "bad_meta_json":
        (layer / "meta_t0_75.json").write_text("{")
    else:
        meta = json.loads((layer / "meta_t0_75.json").read_text())
        (layer / "meta_t0_75.json").write_text(json.dumps(meta | {"dtype": "int8", "bytes_per_elem": 1}))


@pytest.mark.parametrize("entry_mode", ["per_meta", "aggregate"])
@pytest.mark.parametrize("how", ["size_mismatch", "missing_file", "bad_meta_json", "unsupported_dtype"])
def test_an_entry_that_cannot_be_read_adds_no_byte_and_is_counted(own_dump_dir: Path, how: str, entry_mode: Any) -> None:
    settings = EvaluatorSettings(entry_mode=entry_mode)
    break_an_entry(own_dump_dir, how)
    lines: list[str] = []
    result = evaluate(own_dump_dir, settings, log=lines.append)
    assert result.skip_reasons == {how: 1}
    assert (result.skipped_entries, result.selected_entries, result.total_entries) == (1, 11, 24)
    assert [line for line in lines if line.startswith(f"skipped {how}: ") and "layer_1" in line]
    (own_dump_dir / "run_a" / "layer_1" / "meta_t0_75.json").unlink()
    without = evaluate(own_dump_dir, settings)
    assert (result.k, result.v) == (without.k, without.v)


class FlippedBitCodec(GearV22):
    """Decodes V of one length wrongly."""

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        tensor = super().decode(payload, shape, part)
        if part == "v" and shape[0] == 75:
            tensor[74, 1, 5] ^= 1
        return tensor


class FailingCodec(GearV22):
    """Cannot encode V of one length."""

    def __init__(self, fails_at_tokens: int = 75) -> None:
        super().__init__()
        self._fails_at_tokens = fails_at_tokens

    def encode(self, tensor: U16, part: Part) -> bytes:
        if part == "v" and len(tensor) == self._fails_at_tokens:
            raise CodecError("failing: on purpose")
        return super().encode(tensor, part)


@pytest.mark.parametrize("codec", [FlippedBitCodec(), FailingCodec()], ids=["wrong bit", "error"])
def test_a_blob_that_does_not_come_back_exactly_adds_neither_raw_nor_compressed_bytes(dump_dir: Path, codec: MeasuredCodec) -> None:
    result = evaluate(dump_dir, EvaluatorSettings(), codec=TensorByTensor(codec))
    others = evaluate(dump_dir, EvaluatorSettings(stage="decode"))
    assert (result.k, result.v) == (others.k, others.v)
    assert result.skip_reasons == {"codec_error": 4}
    assert result.selected_entries == others.selected_entries


def test_when_a_joined_group_fails_each_of_its_entries_is_counted(dump_dir: Path) -> None:
    """A prefill group is one entry of 75 tokens, a decode group two of 39 together."""
    by_stage = EvaluatorSettings(entry_mode="aggregate", aggregate_by_stage=True)
    assert evaluate(dump_dir, by_stage, codec=TensorByTensor(FailingCodec())).skip_reasons == {"codec_error": 4}
    assert evaluate(dump_dir, by_stage, codec=TensorByTensor(FailingCodec(39))).skip_reasons == {"codec_error": 8}
    assert evaluate(dump_dir, by_stage, codec=TensorByTensor(FailingCodec(39))).selected_entries == 4


def test_nothing_to_evaluate_is_one_line_with_every_count(dump_dir: Path) -> None:
    with pytest.raises(DumpError, match="got 24 entries, 24 outside scope, stage or length and 0 skipped") as caught:
        evaluate(dump_dir, EvaluatorSettings(min_seq_len=1000))
    assert "\n" not in str(caught.value)
    with pytest.raises(DumpError, match=r"18 outside .* and 6 skipped \(codec_error 6\)"):
        evaluate(dump_dir, EvaluatorSettings(front_n=1), codec=TensorByTensor(BrokenCodec()))


class BrokenCodec(LegacyDelta):
    def encode(self, tensor: U16, part: Part) -> bytes:
        raise CodecError("broken: on purpose")


def test_strict_fp16_skips_four_byte_entries(dump_dir: Path) -> None:
    rounded, strict = evaluate(dump_dir, EvaluatorSettings()), evaluate(dump_dir, EvaluatorSettings(strict_fp16=True))
    assert strict.skip_reasons == {"not_fp16": 1}
    assert rounded.raw_bytes - strict.raw_bytes == 2 * 9 * 2 * 6 * 2  # K and V, 9 tokens, 2 heads, 6 channels, 2 bytes as fp16


def test_tokens_that_a_dump_holds_twice_are_pointed_out(own_dump_dir: Path) -> None:
    layer = own_dump_dir / "run_a" / "layer_0"
    meta = json.loads((layer / "meta_t0_75.json").read_text())
    (layer / "meta_t0_75_again.json").write_text(json.dumps(meta))
    assert evaluate(own_dump_dir, ONLINE_SIM).overlapping_entries == 1


def test_the_json_names_ratios_parameters_and_reasons(dump_dir: Path) -> None:
    document = json.loads(json.dumps(evaluate(dump_dir, ONLINE_SIM).to_json()))
    for prefix in ("", "k_", "v_"):
        ratio = document[f"{prefix}raw_bytes"] / document[f"{prefix}compressed_bytes"]
        assert document[f"{prefix}lossless_ratio"] == document[f"{prefix}weighted_lossless_ratio"] == pytest.approx(ratio)
    assert document["raw_bytes"] == document["k_raw_bytes"] + document["v_raw_bytes"] == 2 * 2 * 2 * 114 * 12 * 2
    assert document["skip_reasons"] == {}
    assert document["selected_layers"] == [0, 1]
    for name in EvaluatorSettings.__dataclass_fields__:
        assert name in document
    assert (document["online_chunk_seq"], document["max_seq_len"], document["k_hi_predictors"][0]) == (192, None, "raw")
    for plane in ("k_hi", "k_lo", "v_hi", "v_lo"):
        assert sum(document[f"{plane}_mode_counts"].values()) == 8  # 4 groups of 114 tokens: 64 + 50


def test_the_markdown_shows_the_same_figures(dump_dir: Path) -> None:
    result = evaluate(dump_dir, ONLINE_SIM)
    text = result.to_markdown()
    assert f"| K and V | {result.raw_bytes} | {result.compressed_bytes} | {result.framing_bytes} | {result.lossless_ratio:.4f} |" in text
    assert "- selected_layers: [0, 1]" in text
    assert "- online_chunk_seq: 192" in text
