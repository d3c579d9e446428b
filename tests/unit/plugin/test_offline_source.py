"""What the report says of the dump behind the online gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.session.offline import evaluate_dump


def test_entries_that_could_not_be_read_are_told_with_the_source(tmp_path: Path) -> None:
    words = np.arange(64 * 2 * 8, dtype=np.uint16).reshape(64, 2, 8)
    writer = DumpWriter(tmp_path, "run")
    for layer in (0, 1):
        writer.write(layer, words, words, 0, "prefill")
    whole = evaluate_dump(tmp_path, "dump made by a test")
    assert whole.source == "dump made by a test"
    (tmp_path / "run" / "layer_1" / "k_t0_64.bin").write_bytes(b"short")
    damaged = evaluate_dump(tmp_path, "dump made by a test")
    assert damaged.source == "dump made by a test, 1 of its entries unreadable and skipped"
    assert damaged.evidence().online_sim_ratio is not None


def test_a_ratio_above_the_entropy_bound_is_no_evidence(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 0x10000, (64, 2, 8), dtype=np.uint16)
    writer = DumpWriter(tmp_path, "run")
    for layer in (0, 1):
        writer.write(layer, words, words, 0, "prefill")
    sound = evaluate_dump(tmp_path, "dump made by a test")
    assert sound.online_sim is not None
    assert sound.online_sim["above_bound"] == []
    assert sound.evidence().reason is None
    miscounted = replace(sound, online_sim=sound.online_sim | {"lossless_ratio": 9.0, "above_bound": [{"layer": 0}]}).evidence()
    assert miscounted.online_sim_ratio is None
    assert miscounted.reason is not None
    assert "got 1 units above it" in miscounted.reason
