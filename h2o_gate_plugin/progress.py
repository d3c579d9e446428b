"""Live progress: workers append events to a file, whoever owns the terminal turns them into lines, or into one line that lives."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.outside_file import parsed_json
from h2o_gate_plugin.report.plain_text import encodable, printable

PROGRESS_FILE = "progress.jsonl"
POLL_S = 0.3
PLAIN_INTERVAL_S = 15.0
"""Seconds between two lines on the same case that tell nothing but how far it is."""
BAR = "{desc} {elapsed} elapsed, {remaining} left{postfix} |{bar}| {n_fmt}/{total_fmt}"
"""tqdm cuts the line to the terminal's width, from its end."""
RUN_ID = re.compile(r"(?P<run>run_\d+)_p(?P<prompt>\d+)_g\d+(?:@(?P<file>[A-Za-z0-9.-]+))?_")
Write = Callable[[str], None]


@dataclass(frozen=True)
class Position:
    """Where a measurement stands: the ``index``-th (from 1) of ``count`` cases, 0 for what is no case.

    ``processes``: how many the whole session starts.
    """

    title: str
    index: int
    count: int
    processes: int


def event_object(position: Position, event: ProgressEvent) -> dict[str, Any]:
    """``clock_s``: the system's monotonic clock, the same in every process; the time of day may be set back meanwhile."""
    return {"unix_time": time.time(), "clock_s": time.monotonic(), **asdict(position), "event": asdict(event)}


def append_event(path: Path, document: Mapping[str, Any]) -> None:
    """One line in one write, so that the lines of several workers do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(document) + "\n").encode())
    finally:
        os.close(descriptor)


def read_event(raw: bytes) -> dict[str, Any] | None:
    """The event of one line; None for a line that is none of ours: half of one, say, of a worker that was killed."""
    try:
        document: dict[str, Any] = dict(parsed_json(raw))
        as_declared(Position(**{name: document[name] for name in Position.__dataclass_fields__}))
        as_declared(ProgressEvent(**{name: document["event"][name] for name in ProgressEvent.__dataclass_fields__}))
        as_declared(_Stamp(document["unix_time"], document["clock_s"]))
    except (ValueError, KeyError, TypeError):
        return None
    return document


@dataclass(frozen=True)
class _Stamp:
    unix_time: float
    clock_s: float


def duration(seconds: float) -> str:
    """``34 s``, ``1 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class ProgressState:
    """What the events of one session add up to: processes that ended, their seconds, and the speeds of the run in hand."""

    def __init__(self) -> None:
        self.ended = 0
        self.process_seconds = 0.0
        self.started_s: float | None = None
        self._totals: dict[str, tuple[int, int]] = {}
        self._kept: dict[str, int] = {}
        self._measured: set[str] = set()
        self._run = ""
        self._speeds: dict[str, float] = {}

    def add(self, document: Mapping[str, Any]) -> None:
        event = document["event"]
        if self.started_s is None:
            self.started_s = document["clock_s"] - event["seconds"]
        planned, _ = self._totals.get(document["title"], (event["total"], 0))
        self._totals[document["title"]] = (planned, event["total"])
        run = f"{document['title']} {event['run_id']}"
        if event["run_id"] and run != self._run:
            self._run, self._speeds = run, {}
        if event["kind"] in ("kept", "resumed") and document["title"] not in self._measured:
            self._kept[document["title"]] = event["done"]
        if event["kind"] == "ended":
            self._measured.add(document["title"])
            self.ended += 1
            self.process_seconds += event["process_seconds"] or 0.0
            if event.get("decode_tps") is not None:
                self._speeds[event["role"]] = event["decode_tps"]

    def total(self, document: Mapping[str, Any]) -> int:
        """Processes of the session, with the pairs that were not planned at the start, without those that an earlier run measured."""
        return int(document["processes"]) + sum(now - planned for planned, now in self._totals.values()) - sum(self._kept.values())

    @property
    def speeds(self) -> str:
        """Of the latest pair: ``195.2 tok/s, baseline 200.1``."""
        candidate, baseline = self._speeds.get("candidate"), self._speeds.get("baseline")
        told = [f"{candidate:.1f} tok/s"] if candidate is not None else []
        told += [f"baseline {baseline:.1f}{'' if told else ' tok/s'}"] if baseline is not None else []
        return ", ".join(told)


class ProgressLines:
    """Turns the events of one session into lines of text, some ``PLAIN_INTERVAL_S`` apart where nothing happens but progress."""

    def __init__(self) -> None:
        self.state = ProgressState()
        self._told: set[tuple[str, str]] = set()
        self._last: tuple[str, float] = ("", 0.0)

    def line(self, document: Mapping[str, Any]) -> str | None:
        """The line to show, or None for an event that needs none."""
        self.state.add(document)
        if document["event"]["kind"] != "started":
            return self.lasting(document)
        title, now = document["title"], document["clock_s"]
        if self._last[0] == title and now - self._last[1] < PLAIN_INTERVAL_S:
            return None
        self._last = (title, now)
        return f"{_place(document)}{title}: {_process(document['event'])} … {self._clock(document)}"

    def lasting(self, document: Mapping[str, Any]) -> str | None:
        """The line of an event that stays worth reading when the case is over."""
        event = document["event"]
        kind, head = event["kind"], f"{_place(document)}{document['title']}: "
        if kind == "ended" and event["error"]:
            return f"{head}{_process(event)} FAILED: {event['error']}"
        if kind == "waiting" and self._first(document):
            return f"{head}waiting, another timed run holds this machine"
        if kind == "finished":
            failed = " with failures" if event["error"] else ""
            self._told.add((document["title"], "kept"))
            return f"{head}measured{failed} in {duration(event['seconds'])}"
        if kind == "resumed":
            return f"{head}goes on, {event['done']} of {event['total']} processes are measured already"
        if kind == "kept" and self._first(document):
            return f"{head}already measured"
        return None

    def _first(self, document: Mapping[str, Any]) -> bool:
        seen = (document["title"], document["event"]["kind"])
        if seen in self._told:
            return False
        self._told.add(seen)
        return True

    def _clock(self, document: Mapping[str, Any]) -> str:
        state = self.state
        text = f"{duration(document['clock_s'] - (state.started_s or document['clock_s']))} elapsed"
        if state.ended:
            left = max(state.total(document) - state.ended, 1) * state.process_seconds / state.ended
            text += f", about {duration(left)} left"
        return f"{text}; {state.speeds}" if state.speeds else text


def _place(document: Mapping[str, Any]) -> str:
    return f"[{document['index']}/{document['count']}] " if document["index"] else ""


def _process(event: Mapping[str, Any]) -> str:
    if event["role"] == "dump":
        return str(event["run_id"])
    named = RUN_ID.match(event["run_id"])
    run = f"{named['run']} {named['file'] or 'prompt'} {named['prompt']}" if named else event["run_id"]
    return f"{run} {event['role']} {event['pair']}/{event['pairs']}"


def _short_process(event: Mapping[str, Any]) -> str:
    """``p512 candidate 2/4``: with the time, it fits into 60 columns."""
    named = RUN_ID.match(event["run_id"])
    return _process(event) if named is None else f"p{named['prompt']} {event['role']} {event['pair']}/{event['pairs']}"


class LiveLine:
    """One line at the foot of a terminal, drawn by tqdm: case, pair, elapsed and estimated time, tok/s so far."""

    def __init__(self, file: TextIO, end_line: Callable[[], bool]) -> None:
        """``end_line``: whether pytest left the cursor within a line of its own; it counts as ended from then on."""
        self._file = file
        self._end_line = end_line
        self._lines = ProgressLines()
        self._bar: Any = None
        self._running = False
        self._drawn = False

    def tell(self, document: Mapping[str, Any]) -> None:
        self._lines.state.add(document)
        lasting = self._lines.lasting(document)
        if lasting is not None:
            self.hide()
            self._new_line()
            self._file.write(encodable(printable(lasting), self._file.encoding) + "\n")
            self._file.flush()
        kind = document["event"]["kind"]
        self._running = kind in ("started", "ended", "waiting")
        self._update(document)

    def _update(self, document: Mapping[str, Any]) -> None:
        from tqdm import tqdm  # late: only a terminal needs it

        if self._bar is None:
            self._bar = tqdm(file=self._file, total=0, bar_format=BAR, dynamic_ncols=True, leave=False, delay=1e9)
        state, bar = self._lines.state, self._bar
        bar.total, bar.n = max(state.total(document), state.ended), state.ended
        bar.set_description_str(f"{_place(document)}{document['title']} {_short_process(document['event'])}", refresh=False)
        bar.set_postfix_str(state.speeds, refresh=False)

    def draw(self) -> None:
        """Again, a little later: the clock goes on while nothing is told."""
        if self._bar is not None and self._running:
            self._new_line()
            self._bar.display()
            self._drawn = True

    def hide(self) -> None:
        if self._drawn:  # else the line at the foot is pytest's, with its dots
            self._bar.clear()
        self._drawn = False

    def _new_line(self) -> None:
        if self._end_line():
            self._file.write("\n")

    def close(self) -> None:
        if self._bar is not None:
            self.hide()
            self._bar.close()
        self._file.close()


class PlainLines:
    """Lines that follow each other: a file, a pipe, CI."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lines = ProgressLines()

    def tell(self, document: Mapping[str, Any]) -> None:
        line = self._lines.line(document)
        if line is not None:
            self._write(line)

    def draw(self) -> None:
        """Nothing to do: what was written stays."""

    def hide(self) -> None:
        """Nothing to do: what was written stays."""

    def close(self) -> None:
        """Nothing to do: what was written stays."""


class ProgressTail:
    """Follows a progress file in a thread of its own and shows what is in it, whoever wrote it: this process or xdist's workers."""

    def __init__(self, path: Path, shown: LiveLine | PlainLines) -> None:
        self._path = path
        self._shown = shown
        self._offset = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="h2o-gate-progress", daemon=True)
        self._thread.start()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While somebody else writes to the terminal: everything told so far is shown before, nothing during it."""
        with self._turn:
            self._read()
            self._shown.hide()
            yield

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stop.set()
        self._thread.join()
        self._read()
        self._shown.close()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            with self._turn:
                self._read()
                self._shown.draw()

    def _read(self) -> None:
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self._offset += len(raw)
                event = read_event(raw)
                if event is not None:
                    self._shown.tell(event)
