"""Who belongs to an engine process: its group, and whoever left the group with the mark that the engine's environment got.

A process that calls ``setsid`` leaves the group, and one whose parent ends is adopted by another; its environment stays what it was given.
To become the adopting process oneself (PR_SET_CHILD_SUBREAPER) would catch the same, and the strayed children of everybody else in pytest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MARK_VARIABLE = "H2O_GATE_PROCESS"
"""In the environment of every engine process, with a value of its own."""

PROC = Path("/proc")
_MOST_LISTINGS = 20
"""Who forks and ends while the list is read (so a daemon begins) is not on it, and its child is on the next."""
_ENDED = (b"Z", b"X")  # nothing runs any more; whose child it was has not asked


@dataclass(frozen=True)
class Descendant:
    """A process that runs. ``pid``: what ``os.kill`` takes. ``strayed``: out of the group, found by its mark."""

    pid: int
    name: str
    strayed: bool

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def descendants(group: int, mark: str, proc: Path = PROC) -> tuple[Descendant, ...]:
    """Everyone of ``group``, its leader too, and whoever has ``mark``. Without ``proc`` the group alone can be asked for, as one."""
    if not (proc / "self" / "environ").exists():
        return (Descendant(-group, "its group", False),) if _group_runs(group) else ()
    variable = f"{MARK_VARIABLE}={mark}".encode()
    seen: set[str] = set()
    found: list[Descendant] = []
    for _ in range(_MOST_LISTINGS):
        fresh = [entry for entry in proc.iterdir() if entry.name.isdigit() and entry.name not in seen]
        if not fresh:
            break
        seen.update(entry.name for entry in fresh)
        found += [process for entry in fresh if (process := _belonging(entry, group, variable)) is not None]
    return tuple(found)


def signal_all(group: int, mark: str, number: int) -> None:
    """To the group at once, and to each one that strayed. Whoever is gone, or has become another user's, is left out."""
    for pid in (-group, *(process.pid for process in descendants(group, mark) if process.strayed)):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _belonging(entry: Path, group: int, variable: bytes) -> Descendant | None:
    """Source: proc(5), ``/proc/pid/stat``: pid (name) state ppid pgrp …; the name may hold spaces and brackets."""
    try:
        name, _, rest = (entry / "stat").read_bytes().partition(b"(")[2].rpartition(b")")
        state, _, own_group = rest.split()[:3]
        if state in _ENDED:
            return None
        strayed = int(own_group) != group
        if strayed and variable not in (entry / "environ").read_bytes().split(b"\0"):
            return None
    except OSError:
        return None  # gone meanwhile, or another user's
    return Descendant(int(entry.name), " ".join(name.decode("utf-8", "replace").split()), strayed)


def _group_runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
