"""The entropy bound on the reference model's own KV, where layer 0 repeats rows and deep layers do not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND, CodecMode, EvaluatorSettings

CONFIG = Path(__file__).parents[3] / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
MODES = {"per_meta": EvaluatorSettings(), "online_sim": ONLINE_SIM, "upper_bound": UPPER_BOUND}


@pytest.fixture(scope="module")
def reference_dump_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    argv = ["-m", str(CONFIG), "-kv", "true", "-p", "512", "-n", "32", "-rep", "1", "-t", "1", "-fp", str(folder / "table.md")]
    environment = os.environ | {"MNN_KV_DUMP_DIR": str(folder / "dump"), "H2O_BENCH_QUALITY": "off"}
    command = [sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench", *argv]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder / "dump"


@pytest.mark.parametrize("level", [1, 3, 9, 19])
@pytest.mark.parametrize("codec_mode", ["adaptive_v22", "legacy"])
@pytest.mark.parametrize("mode", MODES)
def test_no_layer_of_a_real_model_is_above_its_bound(reference_dump_dir: Path, mode: str, codec_mode: CodecMode, level: int) -> None:
    result = evaluate(reference_dump_dir, replace(MODES[mode], codec_mode=codec_mode, zstd_level=level, front_n=8))
    assert result.warnings == ()
    assert len(result.layers) == 8 * 3


def test_repeats_lift_layer_0_above_plain_order_0_and_deep_layers_stay_close_below_their_bound(reference_dump_dir: Path) -> None:
    rows = {(row.layer, row.part): row for row in evaluate(reference_dump_dir, replace(ONLINE_SIM, front_n=8)).layers}
    first = rows[0, "v"]
    assert first.sums.lossless_ratio > 1.5 > 1.25 > (first.sums.stats.order0_ratio or 0)
    assert (first.sums.stats.duplicate_row_share or 0) > 0.5
    for layer in (5, 6, 7):
        assert 0.94 < (rows[layer, "v"].bound_share or 0) <= 1
        assert rows[layer, "v"].sums.stats.duplicate_rows == 0
