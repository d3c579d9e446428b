"""What an engine process writes: how much of it, its ends when it is too much, its last lines. Never more in memory than those."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

OUTPUT_LIMIT_BYTES = 128 * 1024 * 1024
"""Of stdout and stderr together, and of the file of the table: fifty times what log lines of 64 layers at every update take."""
KEPT_BYTES = 512 * 1024
"""Of either end of an output over the limit."""
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024
TAIL_LINE_CHARS = 400


def excess(paths: Iterable[Path], limit_bytes: int) -> str | None:
    """Which output is too much, in one line; None: none is."""
    for path in paths:
        if _size_bytes(path) > limit_bytes:
            return f"{path}: output: expected at most {limit_bytes} bytes, got more, of which the ends are kept; let the engine write less"
    return None


def shorten(path: Path, limit_bytes: int) -> None:
    """Keep both ends of a file over the limit: the processes of a case may all write so much."""
    if _size_bytes(path) <= limit_bytes:
        return
    kept = min(KEPT_BYTES, limit_bytes // 2)
    with path.open("r+b") as file:
        size = file.seek(-kept, os.SEEK_END) + kept
        end = file.read()
        file.seek(kept)
        file.write(f"\n[… {size - 2 * kept} bytes left out …]\n".encode() + end)
        file.truncate()


def tail(path: Path) -> tuple[str, ...]:
    """The last lines that are not blank, of the last TAIL_BYTES, as UTF-8 with what is not replaced; a longer line is cut, and says so.

    None where the engine has put something else in the file's place: a pipe would be waited for without an end.
    """
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(line if len(line) <= TAIL_LINE_CHARS else f"{line[:TAIL_LINE_CHARS]}…" for line in lines[-TAIL_LINES:])


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # not there, or not any more
