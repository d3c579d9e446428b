"""`h2o-gate offline` holds groups, not the dump: memory within the bound of `tools/large_dump.py`, whatever the number of groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "large_dump.py"


def measured(folder: Path, *words: str) -> tuple[int, float]:
    """The exit code, and the peak memory in MiB."""
    argv = [sys.executable, str(TOOL), "--folder", str(folder), "--prompts", "2", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in (0, 1), done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("| ").split("|")]
    return done.returncode, float(cells[8].removesuffix(" MiB"))


@pytest.mark.parametrize("mode", ["upper_bound", "online_sim"])
def test_memory_is_flat_in_the_number_of_groups_and_within_the_bound(mode: str, tmp_path: Path) -> None:
    few_code, few_mib = measured(tmp_path, "--gigabytes=0.05", f"--mode={mode}")
    many_code, many_mib = measured(tmp_path, "--gigabytes=0.4", f"--mode={mode}")
    assert (few_code, many_code) == (0, 0)
    assert many_mib - few_mib < 24, "eight times the groups"


def test_a_bound_that_does_not_hold_is_told_by_the_exit_code(tmp_path: Path) -> None:
    assert measured(tmp_path, "--gigabytes=0.01", "--bound-mib=50")[0] == 1
