"""Progress events → lines."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.progress import (
    PLAIN_INTERVAL_S,
    LiveLine,
    PlainLines,
    Position,
    ProgressLines,
    ProgressTail,
    append_event,
    duration,
    event_object,
)

POSITION = Position("m3/joint_full-2", 2, 4, processes=8)
STARTED = ProgressEvent("started", "x", "run_0001_p512_g128_k0.3", "candidate", 2, 2, 0, 8, 0.0)


def at(second: float, event: ProgressEvent) -> dict[str, object]:
    return {**event_object(POSITION, event), "clock_s": 1000.0 + second}


def test_a_line_says_which_case_of_how_many_what_runs_how_long_and_how_long_still() -> None:
    lines = ProgressLines()
    assert lines.line(at(0, STARTED)) == "[2/4] m3/joint_full-2: run_0001 prompt 512 candidate 2/2 … 0 s elapsed"
    assert lines.line(at(10, replace(STARTED, kind="ended", process_seconds=10.0))) is None
    assert lines.line(at(10, STARTED)) is None  # within PLAIN_INTERVAL_S of the last line on this case
    later = lines.line(at(20, STARTED))
    assert later == "[2/4] m3/joint_full-2: run_0001 prompt 512 candidate 2/2 … 20 s elapsed, about 1 min 10 s left"


def test_pairs_that_were_added_on_the_way_count_in_the_time_that_is_left() -> None:
    lines = ProgressLines()
    lines.line(at(0, STARTED))
    lines.line(at(10, replace(STARTED, kind="ended", process_seconds=10.0, total=10)))
    assert (lines.line(at(20, replace(STARTED, total=10))) or "").endswith("20 s elapsed, about 1 min 30 s left")


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


def test_lines_on_the_same_case_are_some_seconds_apart_and_another_case_is_told_at_once() -> None:
    lines = ProgressLines()
    assert lines.line(at(0, STARTED)) is not None
    assert [lines.line(at(second, STARTED)) is not None for second in (1, PLAIN_INTERVAL_S - 1, PLAIN_INTERVAL_S)] == [False, False, True]
    assert lines.line({**at(PLAIN_INTERVAL_S + 1, STARTED), "title": "m3/joint_full-3"}) is not None


def test_the_speeds_of_the_latest_pair_are_told_and_forgotten_with_the_next_run() -> None:
    lines = ProgressLines()
    lines.line(at(0, STARTED))
    ended = replace(STARTED, kind="ended", process_seconds=5.0, decode_tps=195.2)
    for event in (replace(ended, role="baseline", decode_tps=200.04), ended):
        lines.line(at(10, event))
    assert (lines.line(at(20, STARTED)) or "").endswith("left; 195.2 tok/s, baseline 200.0")
    assert "tok/s" not in (lines.line(at(40, replace(STARTED, run_id="run_0002_p1024_g128_k0.3"))) or "tok/s")


def live() -> tuple[LiveLine, io.BytesIO]:
    screen = io.BytesIO()
    file = io.TextIOWrapper(screen, "ascii", errors="replace", write_through=True)
    return LiveLine(file, lambda: False), screen


def test_the_live_line_tells_case_pair_time_and_speed_and_is_gone_when_hidden() -> None:
    line, screen = live()
    line.tell(at(0, STARTED))
    line.tell(at(10, replace(STARTED, kind="ended", process_seconds=10.0, done=1, decode_tps=195.2)))
    line.draw()
    shown = screen.getvalue().decode("ascii").rpartition("\r")[2]
    for part in ("[2/4] m3/joint_full-2 p512 candidate 2/2 ", "elapsed", "left", "195.2 tok/s", "1/8"):
        assert part in shown
    line.hide()
    assert screen.getvalue().decode("ascii").split("\r")[-2].strip() == ""


def test_what_stays_worth_reading_stands_above_the_live_line_in_ascii_where_need_be() -> None:
    line, screen = live()
    line.tell(at(0, STARTED))
    line.draw()
    line.tell(at(3, replace(STARTED, kind="ended", process_seconds=3.0, error="exit code 3 … \x1b[2J")))
    assert "run_0001 prompt 512 candidate 2/2 FAILED: exit code 3 ... \\x1b[2J\n" in screen.getvalue().decode("ascii")


def test_what_pytest_wrote_since_the_line_was_hidden_is_not_wiped() -> None:
    line, screen = live()
    line.tell(at(0, STARTED))
    line.draw()
    line.hide()
    before = screen.getvalue()
    line.hide()
    assert screen.getvalue() == before


def test_a_case_that_is_over_is_not_drawn_any_more() -> None:
    line, screen = live()
    line.tell(at(0, STARTED))
    line.tell(at(9, replace(STARTED, kind="finished", run_id="", role=None, pair=None)))
    before = screen.getvalue()
    line.draw()
    assert screen.getvalue() == before


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 34, 80, 3600)] == ["0 s", "34 s", "1 min 20 s", "60 min 0 s"]


def test_the_tail_shows_what_workers_append_and_leaves_half_a_line_for_later(tmp_path: Path) -> None:
    path, shown = tmp_path / "progress.jsonl", list[str]()
    tail = ProgressTail(path, PlainLines(shown.append))
    append_event(path, at(0, STARTED))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(at(1, STARTED))[:20])
    tail.close()
    assert len(shown) == 1
