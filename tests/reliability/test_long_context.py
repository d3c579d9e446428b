"""The embedded engine at 8,192 tokens: figures exact and plausible, memory within its bound; and that a wrong figure is told."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.table import parse_log

TOOL = Path(__file__).parents[2] / "tools" / "long_context.py"
CELLS = {
    "llm_demo": "prompt=7900<br>decode=128",
    "speed(tok/s)": "700.00 ± 0.00<br>100.00 ± 0.00",
    "h2o_lossy": "3.199 ± 0.000",
    "h2o_lossless": "1.370 ± 0.000",
    "h2o_lossless_fallback": "0.00 ± 0.00",
    "h2o_lossless_backpressure_skip": "0.00 ± 0.00",
    "kv_full_mb": "31.3594",
    "kv_range_full_mb": "23.5195",
    "kv_range_resident_mb": "7.3799 ± 0.0000",
    "lossless_coverage": "0.6025 ± 0.0000",
    "kv_mismatch_blocks": "0.00 ± 0.00",
    "kept_tokens": "8028,8028,2519,2519,2519,2519,2519,2519",
}
"""What the engine printed in full mode."""


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    sys.path.insert(0, str(TOOL.parent))  # where it finds its neighbours when it is started as a script
    spec = importlib.util.spec_from_file_location("long_context", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["long_context"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))
    del sys.modules["long_context"]


def broken(tool: Any, changes: dict[str, str] | None = None, peak_mib: float = 360.0) -> list[str]:
    cells = CELLS | (changes or {})
    table = "\n".join(f"| {' | '.join(row)} |" for row in (cells, ["---"] * len(cells), cells.values()))
    (row,) = parse_log(table)
    full = tool.Run("full", 7900, row, 20.0, peak_mib)
    return list(tool.broken([full, replace(full, mode="store")]))


def test_the_figures_that_the_engine_printed_hold(tool: Any) -> None:
    assert broken(tool) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_full_mb": "31.3600"},
        {"kv_range_full_mb": "31.3594"},
        {"kv_range_resident_mb": "7.4000 ± 0.0000"},
        {"kept_tokens": "8028,8027,2519,2519,2519,2519,2519,2519"},
        {"h2o_lossy": "2.900 ± 0.000"},
        {"h2o_lossy": "3.300 ± 0.000"},
        {"h2o_lossless": "1.000 ± 0.000"},
        {"lossless_coverage": "0.0000 ± 0.0000"},
        {"h2o_lossless_fallback": "1.00 ± 0.00"},
        {"kv_mismatch_blocks": "1.00 ± 0.00"},
    ],
)
def test_a_figure_that_is_off_is_told(tool: Any, changes: dict[str, str]) -> None:
    assert any(next(iter(changes)) in line for line in broken(tool, changes))


def test_memory_beyond_the_bound_is_told(tool: Any) -> None:
    assert any("peak memory" in line for line in broken(tool, peak_mib=500.0))


def test_three_modes_at_7900_and_128_tokens() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--prompts", "7900"], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("3 runs: every figure holds\n")
