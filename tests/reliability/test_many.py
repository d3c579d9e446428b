"""Thousands of rows, runs and cases go through in bounded memory, and what is written of them stays of a size that can be opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "many.py"
PEAK_MIB = 600
PAGE_BYTES_PER_CASE = 48_000


def run(folder: Path, kind: str, count: int) -> dict[str, float]:
    """Command → its peak memory in MiB."""
    argv = [sys.executable, str(TOOL), kind, "--folder", str(folder), "--count", str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in done.stdout.splitlines() if " MiB |" in line]
    return {cells[0]: float(cells[3].removesuffix(" MiB")) for cells in rows}


@pytest.mark.parametrize(("kind", "count"), [("log", 2000), ("history", 2000)])
def test_two_thousand_of_them_are_read_within_bounded_memory(kind: str, count: int, tmp_path: Path) -> None:
    peaks = run(tmp_path, kind, count)
    assert all(peak < PEAK_MIB for peak in peaks.values()), peaks
    if kind == "log":
        table = pd.read_csv(tmp_path / "log" / "many.csv")
        assert (len(table), list(table["line"])) == (count, list(range(3, count + 3)))


def test_a_sweep_of_hundreds_of_runs_ends_in_a_front_that_can_be_read(tmp_path: Path) -> None:
    peaks = run(tmp_path, "sweep", 300)
    assert all(peak < PEAK_MIB for peak in peaks.values()), peaks
    table = pd.read_csv(tmp_path / "sweep" / "sweep" / "sweep.csv")
    assert len(table) == 300
    assert 0 < table["pareto"].sum() < 300
    assert (tmp_path / "sweep" / "sweep" / "pareto.svg").stat().st_size < 1 << 20
    printed = (tmp_path / "sweep" / "output.txt").read_text(encoding="utf-8").splitlines()
    assert sum("  dominated by " in line for line in printed) == 2 * 20, "for each of two prompt lengths"


def test_a_pack_of_a_hundred_cases_is_one_page_that_grows_with_the_cases_alone(tmp_path: Path) -> None:
    peaks = run(tmp_path, "pack", 100)
    assert all(peak < PEAK_MIB for peak in peaks.values()), peaks
    assert (tmp_path / "pack" / "out" / "report.html").stat().st_size < 100 * PAGE_BYTES_PER_CASE
