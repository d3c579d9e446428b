"""Measuring a case: interleaving, once only, failures remembered, artifacts complete. The engine is the scripted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from h2o_gate_plugin.bench import host
from h2o_gate_plugin.bench.config import KV_OFF
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.measurement import ProcessRecord, load_measurement
from h2o_gate_plugin.bench.preset import expand
from h2o_gate_plugin.bench.process import TIMEOUT_OPTIONS
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.run_plan import case_key, plan_key
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare
from h2o_gate_plugin.bench.trace import read_trace
from h2o_gate_plugin.errors import ConfigError, EngineError

LIMIT_S = 60.0


def ignore(event: ProgressEvent) -> None:
    del event


def test_baseline_and_candidate_interleave_abba_for_each_prompt(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    case = measure_case(engine.engine, make_case(prompts=(16, 32)), tmp_path / "out", pairs=2, timeout_s=LIMIT_S, progress=ignore)
    order = [(record.role, record.pair) for record in case.processes]
    abba = [("baseline", 1), ("candidate", 1), ("candidate", 2), ("baseline", 2)]
    assert order == abba + abba
    assert [(call["prompt"], call["kv"]) for call in engine.calls()] == [
        *((16, kv) for kv in ("off", "on", "on", "off")),
        *((32, kv) for kv in ("off", "on", "on", "off")),
    ]
    assert case.complete
    assert case.planned == 8
    assert [row.prompt_tokens for row in case.rows()] == [16, 16, 32, 32]
    assert case.runtime_mode == "full"
    assert not replace(case, processes=case.processes[:-1]).complete


def test_an_undecided_run_goes_on_pair_by_pair_up_to_the_most(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine, asked = scripted(), []

    def undecided(records: tuple[ProcessRecord, ...]) -> bool:
        asked.append([(record.run_id[:8], record.role, record.pair) for record in records])
        return records[-1].rows[0].prompt_tokens == 16

    case = measure_case(
        engine.engine,
        make_case(prompts=(16, 32)),
        tmp_path / "out",
        pairs=1,
        timeout_s=LIMIT_S,
        progress=ignore,
        max_pairs=3,
        undecided=undecided,
    )
    assert [(record.role, record.pair) for record in case.processes] == [
        ("baseline", 1), ("candidate", 1), ("candidate", 2), ("baseline", 2), ("baseline", 3), ("candidate", 3),
        ("baseline", 1), ("candidate", 1),
    ]  # fmt: skip
    assert [len(records) for records in asked] == [2, 4, 2]
    assert {run for records in asked[:2] for run, _, _ in records} == {"run_0001"}
    assert (case.planned, case.complete) == (8, True)
    assert [call["kv"] for call in engine.calls()] == ["off", "on", "on", "off", "off", "on", "off", "on"]


def test_a_failed_run_asks_for_no_more_pairs_and_the_end_tells_of_it(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(rules=[{"when": {"kv": "on"}, "exit": 3}])
    events: list[ProgressEvent] = []
    case = measure_case(
        engine.engine,
        make_case(),
        tmp_path,
        pairs=1,
        timeout_s=LIMIT_S,
        progress=events.append,
        max_pairs=3,
        undecided=lambda records: True,
    )
    assert len(case.processes) == 2
    assert not case.complete
    assert (events[-1].kind, events[-1].error) == ("finished", case.failures()[0].error)


def test_without_a_baseline_each_run_is_one_candidate_process(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    case = measure_case(engine.engine, make_case(), tmp_path, pairs=3, baseline=False, timeout_s=LIMIT_S, progress=ignore)
    assert [(record.role, record.pair) for record in case.processes] == [("candidate", 1)]
    assert (case.pairs, case.baseline, case.complete) == (1, False, True)


def test_the_engine_gets_the_exact_call_of_the_contract(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    words = engine.calls()[1]["argv"][1:]
    config, log = words[1], words[-1]
    assert " ".join(words) == f"-m {config} -a cpu -t 1 -qatten 0 -kv true -p 16 -n 4 -rep 1 -fp {log}"
    written = json.loads(Path(config).read_text())
    assert written["base_dir"] == f"{engine.scenario.parent}/"
    assert written["kv_h2o_enable"] is True
    assert Path(log).is_file()


def test_the_baseline_differs_from_the_candidate_in_the_feature_switches_only(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    case = measure_case(scripted().engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    baseline, candidate = (json.loads(record.config_path.read_text()) for record in case.processes if record.config_path)
    assert {key for key in baseline if baseline[key] != candidate[key]} == set(KV_OFF)
    assert {key: baseline[key] for key in KV_OFF} == KV_OFF


def test_a_case_is_measured_once_and_read_back_equal(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(default={"cells": {"h2o_lossless": "n/a"}, "junk": "[H2O] layer=2"})
    events: list[ProgressEvent] = []
    first = measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=events.append)
    second = measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=events.append)
    assert second == first
    assert load_measurement(first.folder / "measurement.json") == first
    assert len(engine.calls()) == 2
    assert [event.kind for event in events] == ["started", "ended", "started", "ended", "finished", "kept"]
    assert [(event.done, event.total) for event in events] == [(0, 2), (1, 2), (1, 2), (2, 2), (2, 2), (2, 2)]


def test_the_same_content_is_one_measurement_whatever_the_pack_calls_it(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    runtime, final = make_case(case_id="runtime/a-1"), make_case(case_id="final/m3/b-1", overrides={"kv_h2o_block_tokens": 32})
    assert case_key(engine.engine, runtime) == case_key(engine.engine, final)
    for case in (runtime, final):
        measure_case(engine.engine, case, tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    assert len(engine.calls()) == 2


def test_run_number_values_threads_and_engine_make_another_measurement(scripted: Any, make_case: Any) -> None:
    engine = scripted().engine
    case = make_case()
    others = [
        make_case(run=2),
        make_case(prompts=(17,)),
        make_case(overrides={"kv_h2o_block_tokens": 8}),
        replace(case, preset=replace(case.preset, threads=2)),
        replace(case, preset=replace(case.preset, repeat=3)),
    ]
    assert len({case_key(engine, other) for other in [case, *others]}) == 6
    rebuilt = replace(engine, sha256="0" * 64)
    assert case_key(rebuilt, case) != case_key(engine, case)
    assert plan_key(case) == plan_key(make_case(case_id="other/name-1"))


def test_a_folder_measured_with_other_pairs_is_refused_and_not_mixed(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    with pytest.raises(ConfigError, match=r"measurement: expected one with pairs=2.*got one with pairs=1"):
        measure_case(engine.engine, make_case(), tmp_path, pairs=2, timeout_s=LIMIT_S, progress=ignore)
    with pytest.raises(ConfigError, match="baseline=False"):
        measure_case(engine.engine, make_case(), tmp_path, pairs=1, baseline=False, timeout_s=LIMIT_S, progress=ignore)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"exit": 7, "stderr": "config: bad"}, "exit code 7: config: bad"),
        ({"signal": "SIGSEGV"}, "ended by signal SIGSEGV"),
        ({"table": "none"}, "log: expected a table from llm_bench, got no file although it exited 0"),
        ({"table": "no-rows"}, "table: expected at least one row"),
        ({"table": "cut"}, "row: expected 26 cells as in the header, got 24"),
        ({"table": "twice"}, "rows: expected one row prompt=16 decode=4, got prompt=16 decode=4, prompt=16 decode=4"),
        ({"cells": {"llm_demo": "prompt=8<br>decode=4"}}, "rows: expected one row prompt=16 decode=4, got prompt=8 decode=4"),
        ({"cells": {"h2o_lossy": "nan ± 0.00"}}, "h2o_lossy: expected 'mean ± sd'"),
    ],
)
def test_a_failed_process_gives_no_rows_and_is_remembered(
    tmp_path: Path, scripted: Any, make_case: Any, fault: dict[str, Any], error: str
) -> None:
    engine = scripted(default=fault)
    case, again = (
        measure_case(engine.engine, make_case(), tmp_path / "out", baseline=False, timeout_s=LIMIT_S, progress=ignore) for _ in range(2)
    )
    assert again == case
    assert len(engine.calls()) == 1
    assert not case.complete
    (failure,) = case.failures()
    assert failure.error is not None
    assert error in failure.error
    assert case.rows() == ()
    assert failure.result is not None
    assert failure.result.log_path.parent == case.folder / "logs"


def test_a_run_that_failed_is_not_tried_further_and_the_others_go_on(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(rules=[{"when": {"kv": "on", "prompt": 16}, "exit": 1}])
    case = measure_case(engine.engine, make_case(prompts=(16, 32)), tmp_path / "out", pairs=2, timeout_s=LIMIT_S, progress=ignore)
    assert [call["prompt"] for call in engine.calls()] == [16, 16, 32, 32, 32, 32]
    assert [row.prompt_tokens for row in case.rows()] == [32, 32]
    assert (len(case.processes), case.planned, case.complete) == (6, 8, False)


def test_a_hung_engine_is_ended_and_recorded(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted(default={"hang": True})
    case = measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=1.5, progress=ignore)
    (error,) = (record.error for record in case.processes)
    assert error == f"timed out after 1.5 s; where it is only slow, raise {TIMEOUT_OPTIONS}"
    assert not case.complete


def test_the_manifest_is_written_with_hashes_host_and_plan(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    case = measure_case(engine.engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    manifest = json.loads((case.folder / "manifest.json").read_text())
    assert manifest["engine"]["sha256"] == engine.engine.sha256
    assert len(manifest["base_config"]["sha256"]) == 64
    assert manifest["host"]["cores"] >= 1
    assert len(manifest["host"]["load"]) == 3
    assert manifest["host"]["fingerprint"] == host.host_fingerprint(host.host_facts())
    assert "governor" in manifest["host"]
    assert [(item["role"], item["pair"]) for item in manifest["processes"]] == [("baseline", 1), ("candidate", 1)]
    assert [item["trace"] for item in manifest["processes"]] == [None, "traces/run_0001_p16_g4_k0.3_b32_lr3.2-candidate-1.json"]
    assert case.folder.name == f"tiny-1-{case.key[:8]}"


def test_only_the_first_candidate_of_a_run_is_asked_for_a_trace_which_is_kept_with_its_rows(
    tmp_path: Path, scripted: Any, make_case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_BENCH_TRACE", str(tmp_path / "of_the_user.json"))
    engine = scripted(default={"trace": "whole"})
    case = measure_case(engine.engine, make_case(prompts=(16, 32)), tmp_path / "out", pairs=2, timeout_s=LIMIT_S, progress=ignore)
    assert [call["traced"] for call in engine.calls()] == [False, True, False, False] * 2
    for measured in (case, load_measurement(case.folder / "measurement.json")):
        paths = [record.trace_path for record in measured.processes]
        assert [path is not None and path.is_file() for path in paths] == [False, True, False, False] * 2
        assert read_trace(paths[5] or tmp_path)[0].prompt_tokens == 32
    assert not (tmp_path / "of_the_user.json").exists()


def test_an_engine_that_writes_no_trace_has_none(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    case = measure_case(scripted().engine, make_case(), tmp_path / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore)
    assert [record.trace_path for record in case.processes] == [None, None]


def test_a_dump_asked_for_by_the_users_environment_does_not_slow_the_timed_processes(
    tmp_path: Path, scripted: Any, make_case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNN_KV_DUMP_DIR", str(tmp_path / "kv"))
    engine = scripted()
    measure_case(engine.engine, make_case(), tmp_path / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore)
    assert [call["dump"] for call in engine.calls()] == [False, False]


def test_the_fingerprint_names_the_host_and_not_its_load_or_kernel_build() -> None:
    facts = {
        "cpu": "A",
        "cores": 4,
        "usable_cores": 2,
        "system": "Linux-6.1-x86_64",
        "python": "3.13.1",
        "load": [0.1],
        "libraries": {"numpy": "2"},
    }
    same = facts | {"system": "Linux-6.2-x86_64", "load": [9.0], "libraries": {"numpy": "3"}, "governor": "powersave"}
    assert host.host_fingerprint(same) == host.host_fingerprint(facts)
    for name, value in (("cpu", "B"), ("cores", 8), ("usable_cores", 1), ("system", "Darwin-23"), ("python", "3.14.0")):
        assert host.host_fingerprint(facts | {name: value}) != host.host_fingerprint(facts)


def test_thread_pools_are_held_to_the_threads_asked_for_whatever_the_environment_says(
    tmp_path: Path, scripted: Any, make_case: Any
) -> None:
    case = make_case()
    (config,) = expand(replace(case.preset, threads=3), {})
    launch = prepare(scripted().engine, config, RunFiles.of(tmp_path, "run"), {"OMP_NUM_THREADS": "8", "LANG": "C"}, LIMIT_S)
    assert launch.env == {"LANG": "C", **dict.fromkeys(host.THREAD_VARIABLES, "3")}


def test_the_load_at_the_start_of_each_process_is_kept(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    case = measure_case(scripted().engine, make_case(), tmp_path, pairs=1, timeout_s=LIMIT_S, progress=ignore)
    assert all(record.load is not None and record.load >= 0 for record in load_measurement(case.folder / "measurement.json").processes)


def test_two_workers_at_once_measure_a_case_once(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    results: list[object] = []

    def work() -> None:
        results.append(measure_case(engine.engine, make_case(), tmp_path / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT_S)
    assert len(results) == 2
    assert results[0] == results[1]
    assert len(engine.calls()) == 2


def test_a_timed_process_waits_while_another_session_holds_the_machine(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    engine = scripted()
    lock = FileLock(host.timed_run_lock().lock_file)
    kinds: list[str] = []

    def progress(event: ProgressEvent) -> None:
        kinds.append(event.kind)
        if event.kind == "waiting":
            assert engine.calls() == []
            lock.release()

    lock.acquire()
    measure_case(engine.engine, make_case(), tmp_path / "out", pairs=1, baseline=False, timeout_s=LIMIT_S, progress=progress)
    assert kinds == ["waiting", "started", "ended", "finished"]


def test_a_lock_folder_that_is_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"h2o-gate-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="lock folder"):
        host.timed_run_lock()


def test_no_pair_at_all_is_refused(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    with pytest.raises(ConfigError, match="pairs: expected an integer >= 1, got 0"):
        measure_case(scripted().engine, make_case(), tmp_path, pairs=0, timeout_s=LIMIT_S, progress=ignore)


def test_a_moved_folder_still_loads(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    case = measure_case(scripted().engine, make_case(), tmp_path / "out", pairs=1, timeout_s=LIMIT_S, progress=ignore)
    (tmp_path / "out").rename(tmp_path / "moved")
    (loaded,) = load_measurements(tmp_path / "moved")
    assert loaded.key == case.key
    assert loaded.folder == tmp_path / "moved" / case.folder.name
    assert Path(loaded.rows()[0].source).is_file()
    assert all(record.result is not None and record.result.log_path.is_file() for record in loaded.processes)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 2}', '{"schema_version": 1, "key": 1}'])
def test_a_measurement_that_is_no_measurement_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "measurement.json").write_text(text)
    with pytest.raises(ConfigError, match=r"measurement\.json: "):
        load_measurements(tmp_path)


def test_bench_modules_import_without_pytest() -> None:
    code = "import sys, h2o_gate_plugin.bench.measure; sys.exit('pytest' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
