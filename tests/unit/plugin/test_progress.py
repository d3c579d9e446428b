"""Progress events → lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from h2o_gate_plugin.bench.measure import ProgressEvent
from h2o_gate_plugin.progress import Position, ProgressLines, ProgressTail, append_event, duration, event_object

POSITION = Position("m3/joint_full-2", 2, 4, processes=8)
STARTED = ProgressEvent("started", "x", "run_0001_p512_g128_k0.3", "candidate", 2, 2, 0, 8, 0.0)


def at(second: float, event: ProgressEvent) -> dict[str, object]:
    return {**event_object(POSITION, event), "unix_time": 1000.0 + second}


def test_a_line_says_which_case_of_how_many_what_runs_how_long_and_how_long_still() -> None:
    lines = ProgressLines()
    assert lines.line(at(0, STARTED)) == "[2/4] m3/joint_full-2: run_0001 prompt 512 candidate 2/2 … 0 s elapsed"
    assert lines.line(at(10, replace(STARTED, kind="ended", process_seconds=10.0))) is None
    assert lines.line(at(10, STARTED)) == "[2/4] m3/joint_full-2: run_0001 prompt 512 candidate 2/2 … 10 s elapsed, about 1 min 10 s left"


def test_pairs_that_were_added_on_the_way_count_in_the_time_that_is_left() -> None:
    lines = ProgressLines()
    lines.line(at(0, STARTED))
    lines.line(at(10, replace(STARTED, kind="ended", process_seconds=10.0, total=10)))
    assert (lines.line(at(10, replace(STARTED, total=10))) or "").endswith("10 s elapsed, about 1 min 30 s left")


def test_a_failed_process_is_shown_at_once() -> None:
    line = ProgressLines().line(at(3, replace(STARTED, kind="ended", process_seconds=3.0, error="exit code 3")))
    assert line == "[2/4] m3/joint_full-2: run_0001 prompt 512 candidate 2/2 FAILED: exit code 3"


def test_waiting_and_kept_are_told_once_per_case() -> None:
    lines = ProgressLines()
    for kind in ("waiting", "kept"):
        event = replace(STARTED, kind=kind)
        told = [lines.line(at(0, event)) for _ in range(2)]
        assert told[0] is not None
        assert told[1] is None


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 34, 80, 3600)] == ["0 s", "34 s", "1 min 20 s", "60 min 0 s"]


def test_the_tail_shows_what_workers_append_and_leaves_half_a_line_for_later(tmp_path: Path) -> None:
    path, shown = tmp_path / "progress.jsonl", list[str]()
    tail = ProgressTail(path, shown.append)
    append_event(path, at(0, STARTED))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(at(1, STARTED))[:20])
    tail.close()
    assert len(shown) == 1
