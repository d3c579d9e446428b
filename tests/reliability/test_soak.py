"""The soak: a short one is flat, and its verdict sees a leak of any count and is not moved by a round of another kind."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "soak.py"
FLAT = {
    "exit_code": 0, "rss_kib": 300_000, "open_files": 7, "threads": 3, "children": 0, "files": 1, "lock_files": 1, "locks": 0,
}  # fmt: skip
COUNTS = tuple(name for name in FLAT if name != "exit_code")


def verdict(path: Path, rounds: list[dict[str, int]]) -> str:
    """GROWS or FLAT, held against the exit code."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["round", "elapsed_s", *FLAT])
        writer.writeheader()
        writer.writerows({"round": number, "elapsed_s": 20.0 * number, **counts} for number, counts in enumerate(rounds, 1))
    done = subprocess.run([sys.executable, str(TOOL), "--judge", str(path)], capture_output=True, text=True, timeout=120, check=False)
    word = done.stdout.split()[1]
    assert done.returncode == {"FLAT": 0, "GROWS": 1}[word], done.stderr
    return word


@pytest.mark.parametrize("name", COUNTS)
def test_what_grows_with_the_rounds_is_seen(name: str, tmp_path: Path) -> None:
    step = 256 if name == "rss_kib" else 1
    assert verdict(tmp_path / "leak.csv", [FLAT | {name: FLAT[name] + step * number} for number in range(30)]) == "GROWS"


@pytest.mark.parametrize("name", COUNTS)
def test_what_fills_up_first_and_a_round_of_another_kind_are_no_leak(name: str, tmp_path: Path) -> None:
    step = 4096 if name == "rss_kib" else 2
    rounds = [FLAT | {name: FLAT[name] + step * min(number, 8) + (5 * step if number == 25 else 0)} for number in range(30)]
    assert verdict(tmp_path / "flat.csv", rounds) == "FLAT"


def test_a_minute_of_sessions_turns_and_evaluations_piles_nothing_up(tmp_path: Path) -> None:
    argv = [sys.executable, str(TOOL), "--minutes", "1", "--csv", str(tmp_path / "soak.csv")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("soak: FLAT over ")
