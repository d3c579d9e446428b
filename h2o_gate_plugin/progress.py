"""Live progress: workers append events to a file, whoever owns the terminal turns them into lines."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.measure import ProgressEvent

PROGRESS_FILE = "progress.jsonl"
POLL_S = 0.3
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
    return {"unix_time": time.time(), **asdict(position), "event": asdict(event)}


def append_event(path: Path, document: Mapping[str, Any]) -> None:
    """One line in one write, so that the lines of several workers do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(document) + "\n").encode())
    finally:
        os.close(descriptor)


def duration(seconds: float) -> str:
    """``34 s``, ``1 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class ProgressLines:
    """Turns the events of one session into lines; knows how many processes ended, and how long they took."""

    def __init__(self) -> None:
        self._first_time: float | None = None
        self._ended = 0
        self._process_seconds = 0.0
        self._totals: dict[str, tuple[int, int]] = {}
        self._told: set[tuple[str, str]] = set()

    def line(self, document: Mapping[str, Any]) -> str | None:
        """The line to show, or None for an event that needs none."""
        event = document["event"]
        kind = event["kind"]
        if self._first_time is None:
            self._first_time = document["unix_time"] - event["seconds"]
        planned, _ = self._totals.get(document["title"], (event["total"], 0))
        self._totals[document["title"]] = (planned, event["total"])
        if kind == "ended":
            self._ended += 1
            self._process_seconds += event["process_seconds"] or 0.0
        place = f"[{document['index']}/{document['count']}] " if document["index"] else ""
        head = f"{place}{document['title']}: "
        if kind == "started":
            return f"{head}{_process(event)} … {self._clock(document)}"
        if kind == "ended" and event["error"]:
            return f"{head}{_process(event)} FAILED: {event['error']}"
        if kind == "waiting" and self._first(document):
            return f"{head}waiting, another timed run holds this machine"
        if kind == "finished":
            failed = " with failures" if event["error"] else ""
            self._told.add((document["title"], "kept"))
            return f"{head}measured{failed} in {duration(event['seconds'])}"
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
        elapsed = document["unix_time"] - (self._first_time or document["unix_time"])
        text = f"{duration(elapsed)} elapsed"
        if self._ended:
            added = sum(now - planned for planned, now in self._totals.values())  # pairs that were not planned at the start
            left = max(document["processes"] + added - self._ended, 1) * self._process_seconds / self._ended
            text += f", about {duration(left)} left"
        return text


def _process(event: Mapping[str, Any]) -> str:
    if event["role"] == "dump":
        return str(event["run_id"])
    named = RUN_ID.match(event["run_id"])
    run = f"{named['run']} {named['file'] or 'prompt'} {named['prompt']}" if named else event["run_id"]
    return f"{run} {event['role']} {event['pair']}/{event['pairs']}"


class ProgressTail:
    """Follows a progress file in a thread of its own and writes its lines: the controller of a distributed run has nothing else to do."""

    def __init__(self, path: Path, write: Write) -> None:
        self._path = path
        self._write = write
        self._lines = ProgressLines()
        self._offset = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="h2o-gate-progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stop.set()
        self._thread.join()
        self._read()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._read()

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self._offset += len(raw)
                line = self._lines.line(json.loads(raw))
                if line is not None:
                    self._write(line)
