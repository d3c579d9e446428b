"""Every error of the project. One line: ``place: thing: expected what (unit), got repr; do this``."""

from __future__ import annotations

from difflib import get_close_matches


def printable(text: str) -> str:
    """Characters that a terminal would act on (escape, line feed, tab, a change of direction) spelled as Python spells them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class H2oGateError(Exception):
    """Base of every error that a user is meant to read: one line, whatever names and values from outside stand in it."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(H2oGateError):
    """A preset, pack, bench config, option or checkpoint that cannot be used as written."""


class TableError(H2oGateError):
    """An llm_bench log without a table, or a row whose cells break the contract's grammar."""


class EngineError(H2oGateError):
    """An engine process that could not be started, failed, timed out or printed no row."""


class DumpError(H2oGateError):
    """A KV dump whose meta or binary files cannot be read as the contract says."""


class CodecError(H2oGateError):
    """A compressed KV frame that does not decode to what was encoded."""


class FileError(H2oGateError):
    """A file that the disk did not take: no space, no right to write, a name that is too long."""


def nearest(word: str, legal: tuple[str, ...] | list[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest legal word, or the list of legal words when none is close."""
    close = get_close_matches(word, legal, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"legal are {', '.join(legal)}"
