"""The folder of one gate run: its alone while it works, begun by the same run or by none, and gone again where nothing was run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from h2o_gate_plugin.bench.begun import difference
from h2o_gate_plugin.bench.run_folder import make_own
from h2o_gate_plugin.errors import ConfigError, FileError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.outside_file import read_json
from h2o_gate_plugin.report.model import SUMMARY_FILE

RUN_FILE = "run.json"
LOCK_FILE = "run.lock"


class RunFolder:
    """``path``: where the run is to lie; ``place``: the option that says so, None where the name is our own choice.

    ``parts``: when the earlier parts of a run that goes on here were started (UTC).
    """

    def __init__(self, path: Path, place: str | None) -> None:
        self.path = path
        self.parts: tuple[str, ...] = ()
        self._place = place
        self._lock: FileLock | None = None
        self._made: list[Path] = []

    def refuse_finished(self) -> None:
        """A run that was interrupted goes on in its folder; a finished one stays as it is. Raises ConfigError.

        A name of our own that is taken, by a run that began in the same second, is no reason: `claim` takes another.
        """
        path = self.path / SUMMARY_FILE
        if self._place is None or not os.path.lexists(path):
            return
        try:
            summary = read_json(path)
        except (OSError, ValueError):
            summary = {}
        if not isinstance(summary, dict) or summary.get("resume") is None:
            raise ConfigError(
                f"{self._place}: {self.path}: expected no finished run, got one; choose another folder, or judge it by --h2o-from"
            )

    def claim(self, facts: Mapping[str, Any], started: datetime) -> None:
        """From here on no other run may work there. Raises ConfigError: a finished or another run, one at work, a disk that refuses."""
        try:
            if self._place is None:
                self.path = make_own(self.path, self._make)
            else:
                self._make(self.path)
            self._lock = FileLock(self.path / LOCK_FILE)
            self._lock.acquire(timeout=0)
            self.refuse_finished()  # again: whoever had the lock may have finished meanwhile
            self._go_on_or_begin(facts, f"{started:%Y-%m-%dT%H:%M:%SZ}")
        except Timeout as err:
            self._lock = None
            raise ConfigError(
                f"{self._place}: {self.path}: expected a folder of our own, got one in which another run is at work; "
                "wait for it, or choose another folder"
            ) from err
        except (OSError, FileError) as err:
            self.release()
            got = err.strerror if isinstance(err, OSError) and err.strerror else err
            raise ConfigError(
                f"{self._place or 'h2o-out'}: {self.path}: expected a folder that can be written, got {got}; choose another by --h2o-out"
            ) from err

    def _go_on_or_begin(self, facts: Mapping[str, Any], started_utc: str) -> None:
        path = self.path / RUN_FILE
        if path.is_file():
            try:
                begun = read_json(path)
                self.parts = tuple(begun["started_utc"])
            except (OSError, ValueError, KeyError, TypeError) as err:
                raise ConfigError(f"{path}: expected what a gate run writes, got {err!r}; choose another --h2o-out") from err
            if (changed := difference(begun, facts)) is not None:
                raise ConfigError(
                    f"{self._place}: {self.path}: expected the run that was begun there, got {changed}; choose another folder"
                )
        write_atomic(path, json.dumps({**facts, "started_utc": [*self.parts, started_utc]}, indent=1) + "\n")

    def _make(self, path: Path) -> None:
        missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
        path.mkdir(parents=True, exist_ok=self._place is not None)
        self._made = missing

    def release(self) -> None:
        """What was claimed and not used goes again, folders that were made for it too; then other runs may have it."""
        if self._lock is None:
            return
        ours = {RUN_FILE, LOCK_FILE}
        if not self.parts and self.path.is_dir() and {entry.name for entry in os.scandir(self.path)} <= ours:
            for name in ours:
                (self.path / name).unlink(missing_ok=True)
            for folder in self._made:
                with suppress(OSError):  # another run has put something into it
                    folder.rmdir()
        self._lock.release()
        self._lock = None
