"""Every file operation of a gate run is visited: killed before it, killed with half a file written, and a disk that is full from it on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .crash_project import DYING_PYTEST, CrashProject, statuses_of

AT_ONCE = 2


@pytest.mark.parametrize("mode", ["torn", "full"])
def test_a_run_that_ends_at_any_file_operation_tells_no_lie_and_goes_on(tmp_path: Path, mode: str) -> None:
    whole = CrashProject.make(tmp_path / "whole", mini=True)
    code, output = whole.run(whole.argv(program=(str(DYING_PYTEST), "count", "0")))
    assert code == 0, output
    statuses = statuses_of(whole.summary() or {})
    count = int((whole.path / "operations.txt").read_text(encoding="utf-8"))
    assert count > 50
    check: Callable[[CrashProject, int, str], None] = killed if mode == "torn" else refused

    def visit(number: int) -> None:
        project = CrashProject.make(tmp_path / f"{mode}{number}", mini=True)
        code, output = project.run(project.argv(program=(str(DYING_PYTEST), mode, str(number))))
        check(project, code, output)
        project.assert_nothing_runs_on()
        project.assert_honest_and_readable()
        project.assert_goes_on(statuses)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(visit, range(1, count + 1)))
    print(f"{count} operations visited")


def killed(project: CrashProject, code: int, output: str) -> None:
    assert code == -9, output


def refused(project: CrashProject, code: int, output: str) -> None:
    """Never a traceback, and never 0 without the whole report."""
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    assert "No space left on device" in output
    summary = project.summary()
    assert code != 0 or (summary is not None and summary["overall_pass"] is True), output


def test_a_history_on_a_full_disk_is_whole_afterwards(tmp_path: Path) -> None:
    """SQLite's own promise, held against the way it is used here: half a transaction is none."""
    path = tmp_path / "h2o-out" / "history.sqlite"
    project = CrashProject.make(tmp_path / "run", mini=True)
    (project.path / "h2o-out").symlink_to(path.parent)
    path.parent.mkdir()
    assert project.run()[0] == 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
