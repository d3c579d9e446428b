"""Whole files that came from outside, read within bounds: a regular file, no larger than said, JSON that nests a few levels.

A FIFO would hold the reader for ever, a device fill the memory; deep JSON would end in a RecursionError, which is no ValueError.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

MIB = 2**20
LARGEST_TEXT_BYTES = 64 * MIB
"""Of what is read as one document: a hundred times the largest that this project writes."""
MOST_LEVELS = 100
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def opened(path: Path, most_bytes: int) -> BinaryIO:
    """For reading. Raises OSError: no such file, unreadable, not a regular file (links are followed), or more than ``most_bytes``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO without a writer is opened at once, and refused
    except ValueError as err:  # a NUL in its name
        raise OSError(str(err)) from err
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_size <= most_bytes:
        return open(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{stat.filemode(facts.st_mode)[0]!r} in place of a regular file")
    raise OSError(f"{facts.st_size} bytes, more than {most_bytes}")


def read_bytes(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> bytes:
    """Raises OSError as `opened`."""
    with opened(path, most_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> str:
    """UTF-8. Raises OSError as `opened`, and UnicodeDecodeError."""
    return read_bytes(path, most_bytes).decode("utf-8")


def read_json(path: Path, most_bytes: int = LARGEST_TEXT_BYTES) -> Any:
    """Raises OSError as `opened`, and ValueError for what is not UTF-8, not JSON (NaN and 1e999 are none), or nested too deep."""
    return parsed_json(read_text(path, most_bytes))


def parsed_json(text: str | bytes) -> Any:
    """Raises ValueError as `read_json`."""
    known = text if isinstance(text, str) else text.decode("utf-8")
    refuse_deep(known)
    return json.loads(known, parse_constant=_no_number, parse_float=_finite)


def refuse_deep(text: str) -> None:
    """JSON of more than `MOST_LEVELS`: whoever walks it would end in a RecursionError, from some depth on that differs between Pythons.

    Raises ValueError.
    """
    if nesting(_STRING.sub("", text)) > MOST_LEVELS:
        raise ValueError("nested too deep")


def nesting(text: str) -> int:
    """Levels of brackets and braces, those in quotes counted too."""
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(text)), default=0)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} in place of a number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, which with links followed must lie in ``folder``. Raises ValueError."""
    path = folder / name
    try:
        resolved = path.resolve()
        circle = resolved.is_symlink()  # of links: not every Python raises for one
        lies_inside = resolved.is_relative_to(folder.resolve()) and not circle
    except (OSError, RuntimeError, ValueError) as err:  # a circle of links, a NUL
        raise ValueError(f"{name!r}: {err}") from err
    if not lies_inside:
        raise ValueError(f"{name!r}, which lies outside {folder}")
    return path
