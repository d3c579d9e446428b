"""A small dump with everything the evaluator tells apart: two runs, four layers, both stages, fp16 and fp32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from h2o_gate_plugin.kv.dump import DumpWriter, Stage
from h2o_gate_plugin.kv.planes import U16


def kv_like(n_seq: int, seed: int) -> tuple[U16, U16]:
    """K that drifts from token to token, V whose rows repeat with their token; ``[n_seq, 2, 6]``."""
    rng = np.random.default_rng(seed)
    keys = np.cumsum(rng.normal(scale=0.02, size=(n_seq, 2, 6)), axis=0) + rng.normal(size=(1, 2, 6))
    vocabulary = rng.normal(size=(5, 2, 6))
    values = vocabulary[rng.integers(0, 5, n_seq)]
    return keys.astype(np.float16).view(np.uint16), values.astype(np.float16).view(np.uint16)


@pytest.fixture
def own_dump_dir(dump_dir: Path, tmp_path: Path) -> Path:
    """A copy that the test may break."""
    return shutil.copytree(dump_dir, tmp_path / "dump")


@pytest.fixture(scope="session")
def dump_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests: not to be changed."""
    folder = tmp_path_factory.mktemp("offline") / "dump"
    spans: tuple[tuple[int, int, Stage], ...] = ((0, 75, "prefill"), (75, 30, "decode"), (105, 9, "decode"))
    for run in ("run_a", "run_b"):
        writer = DumpWriter(folder, run)
        for layer in range(4):
            for start, length, stage in spans:
                keys, values = kv_like(length, seed=layer * 100 + start + len(run) * (run == "run_b"))
                writer.write(layer, keys, values, start, stage)
    meta_path = folder / "run_a" / "layer_0" / "meta_t105_114.json"
    meta_path.write_text(json.dumps(json.loads(meta_path.read_text()) | {"dtype": "fp32", "bytes_per_elem": 4}))
    for part in "kv":
        binary = meta_path.parent / f"{part}_t105_114.bin"
        binary.write_bytes(np.frombuffer(binary.read_bytes(), dtype="<f2").astype("<f4").tobytes())
    return folder
