"""An engine that misbehaves in one case: the case is an error that tells what happened, the other case is judged, and nothing is left.

Whole runs of the gates with the limits that ship. `tests/unit/bench/test_misbehaviour.py` has the same faults of a single process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from h2o_gate_plugin.bench.host import timed_run_lock
from h2o_gate_plugin.exit_codes import ExitCode
from tests.engines.misbehaviour_told import HARMLESS, TOLD, running
from tests.unit.plugin.conftest import PRESET, GateProject, project  # noqa: F401  the fixture

BROKEN, SOUND = "fire/broken-1", "fire/sound-1"
PACK = "cases:\n  - {case: broken, preset: broken.yaml}\n  - {case: sound, preset: sound.yaml}\n"
HANGING_S = 5.0
KEPT_BYTES = 4_000_000
"""More than the whole of a run with one flooded output may leave on the disk."""


@pytest.fixture
def two_cases(project: GateProject) -> GateProject:  # noqa: F811  the fixture
    """The case ``broken`` has prompts of 64 tokens, ``sound`` of 32."""
    (project.path / "fire.yaml").write_text(PACK, encoding="utf-8")
    (project.path / "broken.yaml").write_text(PRESET, encoding="utf-8")
    (project.path / "sound.yaml").write_text(PRESET.replace("[64]", "[32]"), encoding="utf-8")
    return project


def run(two_cases: GateProject, misbehaves: str, *options: str) -> pytest.RunResult:
    two_cases.scenario(rules=[{"when": {"prompt": 64}, "misbehaves": misbehaves}])
    plain = [option for option in two_cases.engine_options if option not in ("--preset", "mini.yaml")]
    return two_cases.start("acceptance", "-m", "fire and lossy", "--packs=fire.yaml", *plain, *options)


def open_files() -> set[str]:
    """What this process has open, without the folder that is read to know."""
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return {os.readlink(name) for name in names if os.path.lexists(name)}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc who runs")
@pytest.mark.parametrize("fault", TOLD)
def test_a_case_whose_engine_misbehaves_is_an_error_and_the_other_case_is_judged(two_cases: GateProject, fault: str) -> None:
    told, open_before = TOLD[fault], open_files()
    result = run(two_cases, fault, f"--case-timeout={HANGING_S if told.hangs else 120.0}")
    assert result.ret == ExitCode.GATE_FAILED  # docs/ci.md: the sound case gave rows, so the engine as such is not broken
    verdicts = {case["id"]: case["gates"][0]["status"] for case in two_cases.summary()["cases"]}
    assert verdicts == {BROKEN: "NOT_MEASURED", SOUND: "PASS"}
    result.stdout.fnmatch_lines(
        [
            f"failed process of {BROKEN} after *s, {told.ending}: candidate run_0001*: *{told.words}*",
            "  argv: *scripted_llm_bench.py -m */configs/*.json -a cpu -t * -kv true -p 64 -n 8 -rep 2 -fp */logs/*.log",
            f"  | {told.tail or '(no output)'}*".replace("[", "[[]"),
        ]
    )
    assert [call["prompt"] for call in two_cases.calls()] == [64, 32]
    out = two_cases.path / "out"
    assert running(two_cases.path / "scenario.json.pids") == []
    assert list(out.rglob("*.partial")) == []
    assert {name for name in open_files() - open_before if name.startswith(str(two_cases.path))} == set()
    for lock in (timed_run_lock(), *map(FileLock, out.rglob("*.lock"))):
        lock.acquire(timeout=0)
        lock.release()
    if "floods" in fault:
        assert sum(file.stat().st_size for file in out.rglob("*")) < KEPT_BYTES


@pytest.mark.parametrize("oddity", HARMLESS)
def test_an_odd_table_that_says_one_thing_only_is_read(two_cases: GateProject, oddity: str) -> None:
    assert run(two_cases, oddity).ret == ExitCode.OK
    assert {case["id"]: case["gates"][0]["status"] for case in two_cases.summary()["cases"]} == {BROKEN: "PASS", SOUND: "PASS"}


def test_an_engine_that_is_broken_in_every_case_ends_in_the_code_of_broken_engines(two_cases: GateProject) -> None:
    two_cases.scenario(default={"misbehaves": "leaves a daemon"})
    plain = [option for option in two_cases.engine_options if option not in ("--preset", "mini.yaml")]
    result = two_cases.start("acceptance", "-m", "fire and lossy", "--packs=fire.yaml", *plain)
    assert result.ret == ExitCode.ENGINE_BROKEN
    assert running(two_cases.path / "scenario.json.pids") == []
