"""Folders, locales and terminals as they come: a run works there, or is refused in one line; nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import GateProject

LOSSY = ("acceptance", "-m", "runtime and lossy")


def to(project: GateProject, out: str, *args: str) -> pytest.RunResult:
    return project.start(*LOSSY, *project.engine_options[:-1], f"--h2o-out={out}", *args)


@pytest.mark.parametrize("name", ["a b 'c' \"d\" $HOME;x&y", "süß ‮ 漢字 😀", "-dash=[x]*?#%20", "e" * 250])
def test_a_folder_may_have_any_name(project: GateProject, name: str) -> None:
    assert to(project, name).ret == 0
    assert project.summary(name)["cases"][0]["gates"][0]["status"] == "PASS"
    again = project.start(*LOSSY, f"--h2o-from={name}", "--h2o-out=again")  # of another preset than the pack's: read, and told apart
    again.stdout.fnmatch_lines(["*expected a kept measurement of this case*"])


def test_a_folder_whose_name_is_no_text_works_in_an_ascii_locale(project: GateProject) -> None:
    """The engine is started, the report written and read, the history kept; only where a name is shown it is spelled."""
    odd = os.fsencode(project.path) + b"/caf\xc3\xa9 \xff"
    os.mkdir(odd)
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"}
    env.pop("HOME", None)
    options = [option.encode() for option in project.engine_options[:-1]]
    argv = [sys.executable.encode(), b"-m", b"pytest", b"-p", b"no:cacheprovider", b"acceptance", b"-m", b"runtime and lossy"]
    done = subprocess.run([*argv, *options, b"--h2o-out=" + odd], cwd=project.path, env=env, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"warning" not in done.stdout
    with open(odd + b"/summary.json", encoding="utf-8") as file:
        assert json.load(file)["cases"][0]["gates"][0]["status"] == "PASS"


def test_a_path_that_is_too_long_is_refused_in_one_line(project: GateProject) -> None:
    result = to(project, "/".join(["d" * 200] * 25))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert "--h2o-out" in line
    assert "File name too long" in line
    assert project.calls() == []


def test_a_file_in_the_place_of_the_folder_is_refused_and_kept(project: GateProject) -> None:
    (project.path / "file").write_text("mine", encoding="utf-8")
    result = to(project, "file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert "--h2o-out" in line
    assert "expected a folder that can be written" in line
    assert (project.path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; tests/reliability gives up that right")
def test_a_folder_that_may_not_be_written_is_refused_in_one_line(project: GateProject) -> None:
    (project.path / "out").mkdir(mode=0o500)
    result = project.run(*LOSSY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert "got Permission denied; choose another by --h2o-out" in line


def test_a_run_at_work_in_the_folder_is_not_disturbed(project: GateProject) -> None:
    from filelock import FileLock

    (project.path / "out").mkdir()
    with FileLock(project.path / "out" / "run.lock"):
        result = project.run(*LOSSY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert "got one in which another run is at work; wait for it, or choose another folder" in line
    assert project.calls() == []
    assert not (project.path / "out" / "run.json").exists()


def test_a_report_that_the_disk_does_not_take_ends_in_a_code_of_its_own(project: GateProject) -> None:
    (project.path / "out" / "summary.md").mkdir(parents=True)  # in the place of a disk that is full
    result = project.run(*LOSSY)
    assert result.ret == 12
    result.stdout.fnmatch_lines(["error: no whole report: *summary.md*"])
    assert not (project.path / "out" / "summary.json").exists()
    (Path(project.path / "out" / "summary.md")).rmdir()
    assert project.run(*LOSSY).ret == 0
    assert len(project.calls()) == 1


def test_half_a_line_in_the_progress_file_stops_nobody(project: GateProject) -> None:
    (project.path / "out").mkdir()
    (project.path / "out" / "progress.jsonl").write_text('{"unix_time": 1.0, "ti', encoding="utf-8")
    assert project.run(*LOSSY, "-n1", "-p", "xdist").ret == 0
