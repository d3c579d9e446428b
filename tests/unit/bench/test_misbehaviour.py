"""Every misbehaviour of an engine process, one process each: what is told of it, and that nothing of it runs on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.engine import Engine, external_engine
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.measurement import ProcessRecord, load_measurement
from h2o_gate_plugin.bench.preset import expand
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare, run_process
from tests.engines import misbehaviour
from tests.engines.misbehaviour import MISBEHAVIOURS
from tests.engines.misbehaviour_told import BULKY, HARMLESS, TOLD, running

LIMIT_S, HANGING_S, GRACE_S = 60.0, 3.0, 0.2
LIMIT_BYTES = 2_000_000
SCRIPTED_LLM_BENCH = Path(misbehaviour.__file__ or "").with_name("scripted_llm_bench.py")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks /proc who runs")


def ignore(event: ProgressEvent) -> None:
    del event


def run_once(tmp_path: Path, scripted: Any, make_case: Any, misbehaves: str, timeout_s: float = LIMIT_S) -> ProcessRecord:
    engine = scripted(default={"misbehaves": misbehaves}).engine
    (config,) = expand(make_case().preset, {})
    files = RunFiles.of(tmp_path / "out", "x")
    launch = replace(prepare(engine, config, files, {}, timeout_s), grace_s=GRACE_S, output_limit_bytes=LIMIT_BYTES)
    return run_process(launch, config, files.config, ProgressEvent("started", "x", "x", "candidate", 1, 1, 0, 1, 0.0), ignore)


def test_every_misbehaviour_has_its_outcome() -> None:
    assert {*TOLD, *HARMLESS} == set(MISBEHAVIOURS)


@NEEDS_PROC
@pytest.mark.parametrize("misbehaves", sorted(set(TOLD) - set(BULKY)))
def test_what_went_wrong_is_told_and_nothing_runs_on(tmp_path: Path, scripted: Any, make_case: Any, misbehaves: str) -> None:
    told = TOLD[misbehaves]
    record = run_once(tmp_path, scripted, make_case, misbehaves, HANGING_S if told.hangs else LIMIT_S)
    assert record.error is not None
    assert told.words in record.error
    assert "\n" not in record.error
    assert record.rows == ()
    assert record.result is not None
    assert record.result.ending == told.ending
    assert record.result.seconds > 0
    assert "-fp" in record.result.argv
    lines = record.result.tail
    assert lines == () if told.tail is None else any(line.startswith(told.tail) for line in lines)
    assert running(tmp_path / "model" / "scenario.json.pids") == []
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*")) < LIMIT_BYTES + 100_000


@pytest.mark.parametrize("oddity", sorted(set(HARMLESS) - set(BULKY)))
def test_an_odd_table_that_says_one_thing_only_is_read(tmp_path: Path, scripted: Any, make_case: Any, oddity: str) -> None:
    record = run_once(tmp_path, scripted, make_case, oddity)
    assert record.error is None
    assert [row.prompt_tokens for row in record.rows] == [16]


def test_what_was_measured_before_stays_and_another_run_goes_on(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(rules=[{"when": {"prompt": 16, "kv": "on", "call": 2}, "misbehaves": "killed after its table"}]).engine
    case = measure_case(engine, make_case(prompts=(16, 32)), tmp_path / "out", pairs=2, timeout_s=LIMIT_S, progress=ignore)
    assert [(len(record.rows), record.error) for record in case.processes] == [
        (1, None), (1, None), (0, "ended by signal SIGKILL"), *[(1, None)] * 4,
    ]  # fmt: skip
    assert load_measurement(case.folder / "measurement.json") == case
    assert list(case.folder.rglob("*.partial")) == []


def own_engine(folder: Path, first: str, config: Path) -> Engine:
    """A program of its own in ``folder`` that does ``first`` and then is the scripted llm_bench."""
    folder.mkdir()
    program = folder / "llm bench"
    program.write_text(f'#!/bin/sh\n{first}\nexec "{sys.executable}" -S -E "{SCRIPTED_LLM_BENCH}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return external_engine(program, config)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("echo '# built anew' >> \"$0\"", "llm_bench: expected the program that the run began with (sha256 "),
        ('rm "$0"', "llm_bench: expected the program that the run began with, got No such file or directory; put it back and run again"),
    ],
)
def test_a_program_that_changes_between_processes_is_not_run_under_the_name_of_the_first(
    tmp_path: Path, scripted: Any, make_case: Any, first: str, words: str
) -> None:
    made = scripted()
    engine = own_engine(tmp_path / "engine", first, made.engine.base_config)
    case = measure_case(engine, make_case(), tmp_path / "out", pairs=2, timeout_s=LIMIT_S, progress=ignore)
    baseline, candidate = case.processes
    assert (baseline.error, len(baseline.rows)) == (None, 1)
    assert words in (candidate.error or "")
    assert candidate.result is not None
    assert (candidate.result.ending, candidate.rows) == ("not started", ())
    assert len(made.calls()) == 1
    assert load_measurement(case.folder / "measurement.json") == case


def test_a_program_that_was_only_touched_is_the_same(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = own_engine(tmp_path / "engine", 'touch "$0"', scripted().engine.base_config)
    assert measure_case(engine, make_case(), tmp_path / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore).complete


@pytest.mark.parametrize("name", ["two words", 'it\'s "quoted"', "Größe-测试", "$HOME;`id`&", "-rf", "a\nb"])
def test_a_program_and_a_folder_of_any_name_will_do(tmp_path: Path, scripted: Any, make_case: Any, name: str) -> None:
    engine = own_engine(tmp_path / name, ":", scripted().engine.base_config)
    case = measure_case(engine, make_case(), tmp_path / name / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore)
    assert [record.error for record in case.processes] == [None, None]
    assert load_measurement(case.folder / "measurement.json") == case


def test_a_case_of_many_pairs_waits_for_a_hung_engine_once_a_run(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(default={"misbehaves": "hangs silently"}).engine
    case = measure_case(engine, make_case(prompts=(16, 32)), tmp_path / "out", pairs=20, timeout_s=0.5, progress=ignore)
    assert [(record.run_id[:12], record.role, record.pair) for record in case.processes] == [
        ("run_0001_p16", "baseline", 1), ("run_0002_p32", "baseline", 1),
    ]  # fmt: skip
    assert (case.planned, case.complete) == (80, False)
