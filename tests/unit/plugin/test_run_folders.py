"""--h2o-out: a finished run is never overwritten, and every run has a folder of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.session.run_folder import RunFolder

from .conftest import GateProject

LOSSY = ("acceptance", "-m", "runtime and lossy")


def start(project: GateProject, *args: str) -> pytest.RunResult:
    return project.start(*LOSSY, *(option for option in project.engine_options if option != "--h2o-out=out"), *args)


def test_names_of_runs_sort_by_time_and_runs_of_one_second_have_two(project: GateProject) -> None:
    folder, now = project.path / "h2o-out", datetime.now(UTC)
    taken = [f"{now + timedelta(seconds=second):%Y%m%dT%H%M%SZ}-runtime" for second in range(120)]
    for name in taken:
        (folder / name).mkdir(parents=True)
    assert start(project).ret == 0
    (own,) = {path.name for path in folder.iterdir() if path.is_dir()} - set(taken)
    assert own.removesuffix("-2") in taken
    assert (folder / own / "summary.json").is_file()
    assert (folder / own / "report.html").is_file()
    assert sorted([*taken, own]).index(own) == taken.index(own.removesuffix("-2")) + 1


def test_a_folder_that_was_not_used_goes_again(project: GateProject) -> None:
    assert start(project, "--collect-only").ret == 0
    assert not (project.path / "h2o-out").exists()
    assert start(project, "-k", "no_such_test", "-p", "no:html").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (project.path / "h2o-out").exists()


def test_a_finished_run_is_refused_in_one_line_that_says_what_to_do(project: GateProject) -> None:
    (project.path / "out").mkdir()
    (project.path / "out" / "summary.json").write_text("{}", encoding="utf-8")
    result = project.run(*LOSSY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    for part in ("--h2o-out", "expected no finished run", "choose another folder", "--h2o-from"):
        assert part in line
    assert (project.path / "out" / "summary.json").read_text(encoding="utf-8") == "{}"


def test_a_finished_run_of_the_same_second_is_no_reason_to_refuse_one_that_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}", encoding="utf-8")
    folder = RunFolder(tmp_path / "run", None)
    folder.refuse_finished()
    folder.claim({}, datetime(2026, 1, 1, tzinfo=UTC))
    assert folder.path == tmp_path / "run-2"
    folder.release()
    with pytest.raises(ConfigError, match="expected no finished run"):
        RunFolder(tmp_path / "run", "command line --h2o-out").refuse_finished()
