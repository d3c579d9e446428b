"""A case that was cut short goes on: whole pairs stay, the rest is measured, and only on the same engine, host and environment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.begun import difference, whole_pairs
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, load_measurement
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.errors import ConfigError

LIMIT_S = 60.0
FACTS = {
    "packs": ["m3"],
    "plan_sha256": "1" * 64,
    "engine": {"name": "embedded", "sha256": "2" * 64},
    "base_config": {"sha256": "3" * 64},
    "host": {"cpu": "a", "libraries": {"numpy": "2.0"}},
    "environment": {"OMP_PROC_BIND": "true", "PYTEST_XDIST_WORKER": "gw0", "OMP_NUM_THREADS": "4"},
}


class Measured:
    """Two runs of two pairs each, ended after ``processes`` of them, and gone on with."""

    def __init__(self, scripted: Any, make_case: Any, out: Path, max_pairs: int = 2) -> None:
        self.engine = scripted()
        self.case, self.out, self.max_pairs = make_case(prompts=(16, 32)), out, max_pairs
        self.events: list[ProgressEvent] = []

    def run(self, cut_after: int | None = None, undecided: bool = False) -> CaseMeasurement:
        started = 0

        def progress(event: ProgressEvent) -> None:
            nonlocal started
            self.events.append(event)
            started += event.kind == "started"
            if cut_after is not None and event.kind == "started" and started > cut_after:
                raise KeyboardInterrupt

        return measure_case(
            self.engine.engine,
            self.case,
            self.out,
            pairs=2,
            timeout_s=LIMIT_S,
            progress=progress,
            max_pairs=self.max_pairs,
            undecided=lambda records: undecided,
        )

    def cut(self, after: int, undecided: bool = False) -> CaseMeasurement:
        with pytest.raises(KeyboardInterrupt):
            self.run(after, undecided)
        (path,) = self.out.glob("*/measurement.json")
        return load_measurement(path)

    def manifest(self) -> dict[str, Any]:
        (path,) = self.out.glob("*/manifest.json")
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest


def order(measurement: CaseMeasurement) -> list[tuple[str, str, int | None]]:
    return [(record.run_id[:8], record.role, record.pair) for record in measurement.processes]


@pytest.mark.parametrize(("after", "kept"), [(1, 0), (3, 2), (4, 4)])
def test_whole_pairs_are_kept_and_half_a_pair_is_measured_again(
    tmp_path: Path, scripted: Any, make_case: Any, after: int, kept: int
) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out")
    partial = measured.cut(after)
    assert (len(partial.processes), partial.finished, partial.complete) == (after, False, False)
    assert partial.unfinished == f"{after} of 8 processes were measured before the run was cut short"
    whole = measured.run()
    abba = [("baseline", 1), ("candidate", 1), ("candidate", 2), ("baseline", 2)]
    assert order(whole) == [(run, *process) for run in ("run_0001", "run_0002") for process in abba]
    assert (whole.finished, whole.complete, whole.resumed_after) == (True, True, (kept,))
    assert whole.processes[:kept] == partial.processes[:kept]
    assert len(measured.engine.calls()) == after + 8 - kept
    (part,) = measured.manifest()["resumed"]
    assert (part["kept_processes"], len(part["measured_again"])) == (kept, after - kept)
    resumed = next(event for event in measured.events if event.kind == "resumed")
    assert (resumed.done, resumed.total) == (kept, 8)
    assert load_measurement(whole.folder / "measurement.json") == whole


def test_a_run_that_was_cut_twice_tells_of_both(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out")
    measured.cut(2)
    measured.cut(3)
    assert measured.run().resumed_after == (2, 4)
    assert [part["kept_processes"] for part in measured.manifest()["resumed"]] == [2, 4]


def test_pairs_that_an_earlier_part_went_on_for_count_whatever_the_rule_says_now(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out", max_pairs=3)
    assert len(measured.cut(6, undecided=True).processes) == 6
    whole = measured.run(undecided=False)
    pairs = [(record.run_id[:8], record.pair) for record in whole.processes if record.role == "candidate"]
    assert pairs == [("run_0001", 1), ("run_0001", 2), ("run_0001", 3), ("run_0002", 1), ("run_0002", 2)]
    assert (whole.planned, whole.complete) == (10, True)


def test_a_failed_process_is_not_tried_again(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out")
    measured.engine.scenario.write_text(json.dumps({"rules": [{"when": {"kv": "on", "prompt": 16}, "exit": 3}]}), encoding="utf-8")
    measured.cut(2)
    measured.engine.scenario.write_text("{}", encoding="utf-8")
    whole = measured.run()
    assert [record.error for record in whole.processes if record.run_id.startswith("run_0001")] == [None, "exit code 3"]
    assert not whole.complete
    assert len(measured.engine.calls()) == 2 + 4


def test_without_baselines_every_process_counts_by_itself(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    records = tuple(ProcessRecord("candidate", 1, run, None, None, (), None) for run in ("a", "b"))
    assert whole_pairs(records, paired=False) == (records, ())


def test_another_environment_is_refused_by_name(tmp_path: Path, scripted: Any, make_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out")
    measured.cut(2)
    calls = len(measured.engine.calls())
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    with pytest.raises(ConfigError, match=r"got another environment \(nothing set → OMP_PROC_BIND=close\); choose another --h2o-out"):
        measured.run()
    assert len(measured.engine.calls()) == calls
    monkeypatch.delenv("OMP_PROC_BIND")
    assert measured.run().complete


def test_another_engine_has_a_folder_of_its_own(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    measured = Measured(scripted, make_case, tmp_path / "out")
    measured.cut(2)
    measured.engine = replace(measured.engine, engine=replace(measured.engine.engine, sha256="0" * 64))
    assert measured.run().resumed_after == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"packs": ["runtime"]}, "another pack (m3 → runtime)"),
        ({"plan_sha256": "f" * 64}, "another preset (111111111111 → ffffffffffff)"),
        ({"engine": {"name": "embedded", "sha256": "f" * 64}}, "another engine (222222222222 → ffffffffffff)"),
        ({"base_config": {"sha256": "f" * 64}}, "another model config (333333333333 → ffffffffffff)"),
        ({"host": {"cpu": "b", "libraries": {"numpy": "2.0"}}}, "another host ("),
        ({"host": {"cpu": "a", "libraries": {"numpy": "2.1"}}}, "another set of libraries (numpy 2.0 → numpy 2.1)"),
        ({"environment": {}}, "another environment (OMP_PROC_BIND=true → nothing set)"),
    ],
)
def test_what_must_be_the_same_is_told_when_it_is_not(change: dict[str, Any], told: str) -> None:
    assert (difference(FACTS, {**FACTS, **change}) or "").startswith(told)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"environment": {"OMP_PROC_BIND": "true", "PYTEST_XDIST_WORKER": "gw1", "H2O_MIN_LOSSY": "2"}},
        {"host": {"cpu": "a", "libraries": {"numpy": "2.0"}, "load": [9.0, 9.0, 9.0]}},
    ],
)
def test_load_workers_and_limits_may_change(change: dict[str, Any]) -> None:
    assert difference(FACTS, {**FACTS, **change}) is None
