"""An engine that misbehaves in one case: the case is an error that tells what happened, the other case is judged, and nothing is left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from h2o_gate_plugin.bench.host import timed_run_lock
from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import PRESET, GateProject

BROKEN, SOUND = "fire/broken-1", "fire/sound-1"
PACK = "cases:\n  - {case: broken, preset: broken.yaml}\n  - {case: sound, preset: sound.yaml}\n"
CUT = "row: expected it to end in '|'*the log is cut"


@dataclass(frozen=True)
class Told:
    """``ending`` and ``words`` (a pattern of fnmatch) of the failed process; ``tail``: its last line of output; None: none."""

    ending: str
    words: str
    tail: str | None = None


def part(printed: str) -> str:
    return f"the table is printed: {printed}"


FAULTS = {
    "killed before its table": Told("SIGKILL", "ended by signal SIGKILL", part("nothing")),
    "killed within its table": Told("SIGKILL", "ended by signal SIGKILL", part("half")),
    "killed after its table": Told("SIGKILL", "ended by signal SIGKILL", part("whole")),
    "segfault before its table": Told("SIGSEGV", "ended by signal SIGSEGV", part("nothing")),
    "segfault within its table": Told("SIGSEGV", "ended by signal SIGSEGV", part("half")),
    "segfault after its table": Told("SIGSEGV", "ended by signal SIGSEGV", part("whole")),
    "exit 0 without a table": Told("exit code 0", "log: expected a table from llm_bench, got no file", part("nothing")),
    "exit 0 without a row": Told("exit code 0", "table: expected at least one row below the header, got none", part("header")),
    "exit 0 within a row": Told("exit code 0", CUT, part("half")),
    "exit 1 with its row": Told("exit code 1", f"exit code 1: {part('whole')}", part("whole")),
    "hangs silently": Told("SIGTERM", "timed out after 1 s; *raise --case-timeout", part("nothing")),
    "hangs within its table": Told("SIGTERM", "timed out after 1 s", part("half")),
    "hangs after its table": Told("SIGTERM", "timed out after 1 s", part("whole")),
    "hangs and ignores SIGTERM": Told("SIGKILL", "timed out after 1 s", part("half")),
    "hangs with a child that ignores SIGTERM": Told("SIGTERM", "timed out after 1 s", part("half")),
    "stops itself": Told("SIGKILL", "timed out after 1 s", part("half")),
    "floods stdout": Told("SIGTERM", "output: expected at most 134217728 bytes, got more", "*a line of noise*"),
    "floods its log": Told("SIGTERM", "output: expected at most 134217728 bytes, got more"),
    "floods its log with rows": Told("SIGTERM", "output: expected at most 134217728 bytes, got more"),
    "floods a line": Told("SIGTERM", "output: expected at most 134217728 bytes, got more", "xxx*…"),
    "a table line of 100 MB": Told("exit code 0", ".log:1: row: expected fewer than 65536 characters, got more"),
    "binary junk": Told("exit code 0", "log: expected a readable UTF-8 text file"),
    "UTF-16": Told("exit code 0", "log: expected a readable UTF-8 text file"),
    "UTF-16 without a mark": Told("exit code 0", ".log:1: row: expected it to end in '|'"),
    "NULs": Told("exit code 0", "header: expected the columns llm_demo and speed(tok/s)"),
    "a last line that is cut": Told("exit code 0", CUT),
    "two tables": Told("exit code 0", "rows: expected one row prompt=64 decode=8, got prompt=64 decode=8, prompt=64 decode=8"),
    "a column twice": Told("exit code 0", "header: expected each column once, got 'model' twice"),
    "too few cells": Told("exit code 0", "cells as in the header, got "),
    "too many cells": Told("exit code 0", "cells as in the header, got "),
    "leaves a child": Told("exit code 0", "exit code 0, but python3* (process *) ran on and had to be ended"),
    "leaves a child that ignores SIGTERM": Told("exit code 0", "ran on and had to be ended"),
    "leaves a child in a session of its own": Told("exit code 0", "ran on and had to be ended"),
    "leaves a daemon": Told("exit code 0", "ran on and had to be ended"),
}
HARMLESS = (
    "100 MB on stdout", "100 MB in its log", "a line of 100 MB in its log", "CRLF", "byte order mark", "no end of the last line",
)  # fmt: skip


@pytest.fixture
def two_cases(project: GateProject) -> GateProject:
    """The case ``broken`` has prompts of 64 tokens, ``sound`` of 32."""
    (project.path / "fire.yaml").write_text(PACK, encoding="utf-8")
    (project.path / "broken.yaml").write_text(PRESET, encoding="utf-8")
    (project.path / "sound.yaml").write_text(PRESET.replace("[64]", "[32]"), encoding="utf-8")
    return project


def run(project: GateProject, misbehaves: str, *options: str) -> pytest.RunResult:
    project.scenario(rules=[{"when": {"prompt": 64}, "misbehaves": misbehaves}])
    plain = [option for option in project.engine_options if option not in ("--preset", "mini.yaml")]
    return project.start("acceptance", "-m", "fire and lossy", "--packs=fire.yaml", *plain, *options)


def running(project: GateProject) -> list[int]:
    """Of the processes that the engine's misbehaving calls wrote down, those that still run."""
    noted = (project.path / "scenario.json.pids").read_text(encoding="ascii").split()
    return [pid for pid in map(int, noted) if runs(pid)]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_nothing_is_left(project: GateProject, open_before: int) -> None:
    assert running(project) == []
    assert list((project.path / "out").rglob("*.partial")) == []
    assert len(os.listdir("/proc/self/fd")) == open_before
    for lock in (timed_run_lock(), *map(FileLock, (project.path / "out").rglob("*.lock"))):
        lock.acquire(timeout=0)
        lock.release()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc who runs")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_case_whose_engine_misbehaves_is_an_error_and_the_other_case_is_judged(two_cases: GateProject, fault: str) -> None:
    told, open_before = FAULTS[fault], len(os.listdir("/proc/self/fd"))
    result = run(two_cases, fault, "--case-timeout=1")
    assert result.ret == ExitCode.GATE_FAILED  # the sound case gave rows, so the engine as such is not broken: docs/ci.md
    verdicts = {case["id"]: case["gates"][0]["status"] for case in two_cases.summary()["cases"]}
    assert verdicts == {BROKEN: "NOT_MEASURED", SOUND: "PASS"}
    result.stdout.fnmatch_lines(
        [
            f"failed process of {BROKEN} after *s, {told.ending}: candidate run_0001*: *{told.words}*".replace("[", "[[]"),
            "  argv: *scripted_llm_bench.py -m */configs/*.json -a cpu -t * -kv true -p 64 -n 8 -rep 2 -fp */logs/*.log",
            *([f"  | {told.tail}"] if told.tail is not None else ["  | (no output)"]),
        ]
    )
    assert [call["prompt"] for call in two_cases.calls()] == [64, 32]
    assert_nothing_is_left(two_cases, open_before)
    assert sum(file.stat().st_size for file in (two_cases.path / "out").rglob("*")) < 110_000_000


@pytest.mark.parametrize("oddity", HARMLESS)
def test_an_odd_table_that_says_one_thing_only_is_read(two_cases: GateProject, oddity: str) -> None:
    assert run(two_cases, oddity).ret == 0
    assert two_cases.summary()["outcome"] in ("pass", "not_judged")
    assert running(two_cases) == []


def test_every_misbehaviour_is_tried() -> None:
    from tests.engines.misbehaviour import MISBEHAVIOURS

    assert {*FAULTS, *HARMLESS} == set(MISBEHAVIOURS)
