"""What the report says of the dump behind the online gate."""

from __future__ import annotations

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
