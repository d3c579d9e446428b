"""A gate run that is interrupted or killed: no engine is left, what was measured stays, and the same command goes on.

The engine itself sends the signal to whoever started it, so that each comes at a known moment.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.history.database import HISTORY_FILE, open_history

from .conftest import GateProject

TWO_RUNS = "prompts: [64, 128]\ngens: [8]\nrepeat: 2\nkv: {kv_h2o_target_lossy_ratio: 3.2, kv_h2o_trigger_min_tokens: 32}\n"
RUNTIME = ("acceptance", "-m", "runtime")
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job of a shell it would be ignored
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
WHOLE = [("off", 64), ("on", 64), ("off", 128), ("on", 128), ("off", 128)]
"""The processes of a whole run; the last one dumps."""


def start(project: GateProject, *args: str, options: Sequence[str] = ()) -> pytest.RunResult:
    """In a process of its own, where a signal ends nothing but that."""
    words = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *RUNTIME, *(options or project.engine_options), *args)
    return project.pytester.run(sys.executable, "-c", INTERRUPTIBLE, *words)


def at_second_candidate(project: GateProject, **answers: Any) -> None:
    (project.path / "mini.yaml").write_text(TWO_RUNS, encoding="utf-8")
    project.scenario(rules=[{"when": {"kv": "on", "prompt": 128, "call": 1, "dump": False}, **answers}])


def processes(project: GateProject) -> list[tuple[str, int]]:
    return [(call["kv"], call["prompt"]) for call in project.calls()]


def measurement(project: GateProject, out: str = "out") -> dict[str, Any]:
    (path,) = (project.path / out / "cases").glob("*/measurement.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


@pytest.mark.parametrize(("signals", "told"), [("SIGINT SIGINT SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")])
def test_an_interrupt_leaves_a_report_that_says_so_and_the_command_that_goes_on(project: GateProject, signals: str, told: str) -> None:
    at_second_candidate(project, signal_parent=signals, hang=True)
    result = start(project)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert gone(int((project.path / "scenario.json.child").read_text(encoding="utf-8")))
    summary, kept = project.summary(), measurement(project)
    assert (summary["overall_pass"], summary["outcome"], summary["cases"]) == (None, "not_judged", [])
    assert [process["role"] for process in kept["processes"]] == ["baseline", "candidate", "baseline"]
    why = f"the run was interrupted by {told}; 0 of 1 cases of the pack runtime were judged; runtime/joint_full-1: 3 of 4 processes were"
    assert summary["incomplete"].startswith(why)
    command = shlex.split(summary["resume"])
    assert command[:1] + command[-1:] == ["pytest", "--h2o-out=out"]
    for file, words in (("summary.md", "- go on with:\n\n      pytest"), ("report.html", "It goes on where it stopped")):
        assert words in (project.path / "out" / file).read_text(encoding="utf-8")
    result.stdout.fnmatch_lines([f"overall_pass: not judged ({why}*", f"go on with: {summary['resume']}"])
    with open_history(project.path / "h2o-out" / HISTORY_FILE) as history:
        (run,) = history.runs()
    assert (run.overall_pass, run.incomplete) == (None, summary["incomplete"])

    again = project.start(*command[command.index("acceptance") :])
    assert again.ret == 0
    assert processes(project) == [*WHOLE[:4], *WHOLE[2:]]
    assert project.summary()["overall_pass"] is True
    assert project.summary()["resume"] is None
    notes = [note["note"] for note in project.summary()["notes"]]
    assert "measured in 2 parts: cut short, and gone on with 2 processes kept" in notes
    with open_history(project.path / "h2o-out" / HISTORY_FILE) as history:
        assert [(run.overall_pass, run.incomplete) for run in history.runs()] == [(True, None)]
    assert project.start(*command[command.index("acceptance") :]).ret == pytest.ExitCode.USAGE_ERROR  # a finished run


def test_a_killed_run_ends_its_engine_and_goes_on_and_its_artifacts_pass_no_gate(project: GateProject) -> None:
    project.scenario(rules=[{"when": {"kv": "on", "prompt": 1024}, "signal_parent": "SIGKILL", "hang": True}])
    options = [option for option in project.engine_options if option not in ("--preset", "mini.yaml")]
    assert start(project, options=options).ret == -9
    assert not (project.path / "out" / "summary.json").exists()
    assert len(measurement(project)["processes"]) == 3
    judged = project.start(*RUNTIME, "--h2o-from=out", "--h2o-out=partial", "--decode-aggregate=avg")
    assert judged.ret == pytest.ExitCode.TESTS_FAILED
    assert project.summary("partial")["overall_pass"] is False
    statuses = project.statuses("partial")
    assert "PASS" not in statuses.values()
    assert list(statuses.values()).count("INCONCLUSIVE") == 9
    told = "holds so far, but 3 of 4 processes were measured before the run was cut short"
    judged.stdout.fnmatch_lines([f"lossy_pass: *measured 3.200 ratio*{told}*", f"overall_pass: false (*{told[19:]})"])
    project.scenario()
    assert project.start(*RUNTIME, *options).ret == 0
    assert processes(project) == [("off", 512), ("on", 512), ("off", 1024), ("on", 1024), ("off", 1024), ("on", 1024), ("off", 1024)]


def test_a_worker_that_is_killed_is_told_and_its_case_measured_by_another(project: GateProject) -> None:
    at_second_candidate(project, signal_parent="SIGKILL")
    result = start(project, "-n2", "-p", "xdist")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*worker 'gw*' crashed*"])
    assert measurement(project)["resumed_after"] == [2]
    assert project.summary()["overall_pass"] is True  # of a measurement that is whole; the code tells of the crash
    assert processes(project) == [*WHOLE[:4], *WHOLE[2:]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--min-lossy=3.1",), None),
        (("--threads=3",), "another preset"),
        (("-m", "m3"), "another pack (runtime → m3)"),
    ],
)
def test_a_run_goes_on_only_with_what_was_begun(project: GateProject, change: tuple[str, ...], told: str | None) -> None:
    (project.path / "out").mkdir()
    facts = _facts_of_a_run(project)
    (project.path / "out" / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    result = project.start("acceptance", "-m", "runtime and lossy", *_options_for(project, change), *change)
    if told is None:
        assert result.ret == 0
        return
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert f"command line --h2o-out: {project.path / 'out'}: expected the run that was begun there, got {told}" in line
    assert project.calls() == []


def _options_for(project: GateProject, change: tuple[str, ...]) -> list[str]:
    """The pack m3 takes no preset."""
    return [option for option in project.engine_options if "-m" not in change or option not in ("--preset", "mini.yaml")]


def _facts_of_a_run(project: GateProject) -> dict[str, Any]:
    """run.json as a run of this project writes it."""
    assert project.start("acceptance", "-m", "runtime and lossy", *project.engine_options[:-1], "--h2o-out=first").ret == 0
    (project.path / "scenario.json.calls.jsonl").unlink()
    facts: dict[str, Any] = json.loads((project.path / "first" / "run.json").read_text(encoding="utf-8"))
    return facts
