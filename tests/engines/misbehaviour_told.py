"""What is to be told of each misbehaviour of an engine process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Told:
    """``ending`` and ``words`` (a part of the error) of the failed process; ``tail``: a line of its output begins so; None: no output.

    ``hangs``: it is ended at the time limit alone.
    """

    ending: str
    words: str
    tail: str | None = None
    hangs: bool = False


def _printed(part: str) -> str:
    return f"the table is printed: {part}"


def _killed(ending: str, part: str) -> Told:
    return Told(ending, f"ended by signal {ending}", _printed(part))


def _hung(ending: str, part: str) -> Told:
    return Told(ending, " s; where it is only slow, raise --case-timeout", _printed(part), hangs=True)


_TOO_MUCH = "output: expected at most "
_LEFT = " ran on and had to be ended; let the engine end what it starts"

TOLD: Mapping[str, Told] = {
    "killed before its table": _killed("SIGKILL", "nothing"),
    "killed within its table": _killed("SIGKILL", "half"),
    "killed after its table": _killed("SIGKILL", "whole"),
    "segfault before its table": _killed("SIGSEGV", "nothing"),
    "segfault within its table": _killed("SIGSEGV", "half"),
    "segfault after its table": _killed("SIGSEGV", "whole"),
    "exit 0 without a table": Told("exit code 0", "log: expected a table from llm_bench, got no file", _printed("nothing")),
    "exit 0 without a row": Told("exit code 0", "table: expected at least one row below the header, got none", _printed("header")),
    "exit 0 within a row": Told("exit code 0", ":3: row: expected it to end in '|'", _printed("half")),
    "exit 1 with its row": Told("exit code 1", f"exit code 1: {_printed('whole')}", _printed("whole")),
    "hangs silently": _hung("SIGTERM", "nothing"),
    "hangs within its table": _hung("SIGTERM", "half"),
    "hangs after its table": _hung("SIGTERM", "whole"),
    "hangs and ignores SIGTERM": _hung("SIGKILL", "half"),
    "hangs with a child that ignores SIGTERM": _hung("SIGTERM", "half"),
    "hangs with a child in a session of its own": _hung("SIGTERM", "half"),
    "stops itself": _hung("SIGKILL", "half"),
    "floods stdout": Told("SIGTERM", _TOO_MUCH, "[H2O] layer=2 kv=513 a line of noise"),
    "floods its log": Told("SIGTERM", _TOO_MUCH),
    "floods its log with rows": Told("SIGTERM", _TOO_MUCH),
    "floods a line": Told("SIGTERM", _TOO_MUCH, "xxx"),
    "a table line of 100 MB": Told("exit code 0", ":1: row: expected fewer than 65536 characters, got more"),
    "removes its output": Told("exit code 0", "log: expected a table from llm_bench, got no file"),
    "binary junk": Told("exit code 0", "log: expected a readable UTF-8 text file"),
    "UTF-16": Told("exit code 0", "log: expected a readable UTF-8 text file"),
    "UTF-16 without a mark": Told("exit code 0", "log: expected a readable UTF-8 text file"),
    "NULs": Told("exit code 0", ":1: header: expected a header line and a ruler line"),
    "a last line that is cut": Told("exit code 0", ":4: row: expected it to end in '|'"),
    "two tables": Told("exit code 0", "rows: expected one row prompt="),
    "a column twice": Told("exit code 0", ":1: header: expected each column once, got 'model' twice"),
    "too few cells": Told("exit code 0", ":3: row: expected 26 cells as in the header, got 25"),
    "too many cells": Told("exit code 0", ":3: row: expected 26 cells as in the header, got 27"),
    "leaves a child": Told("exit code 0", _LEFT),
    "leaves a child that ignores SIGTERM": Told("exit code 0", _LEFT),
    "leaves a child in a session of its own": Told("exit code 0", _LEFT),
    "leaves a daemon": Told("exit code 0", _LEFT),
    "leaves one after another": Told("exit code 0", _LEFT),
}
HARMLESS = (
    "100 MB on stdout", "100 MB in its log", "a line of 100 MB in its log", "CRLF", "byte order mark", "no end of the last line",
)  # fmt: skip
"""Odd, but the table says one thing only."""
BULKY = ("100 MB on stdout", "100 MB in its log", "a line of 100 MB in its log", "a table line of 100 MB")


def running(pids: Path) -> list[int]:
    """Of the process ids that misbehaving engines wrote down, those that still run."""
    return [pid for pid in map(int, pids.read_text(encoding="ascii").split()) if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # ended, and its new parent has not asked yet
