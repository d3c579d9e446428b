"""Text from outside, an engine's last words say, made safe to print: no control characters, nothing that the reader takes for a command."""

from __future__ import annotations

import re

SPELLED = {"…": "...", "±": "+/-", "×": "x", "→": "->", "–": "-", "—": "-", "≥": ">=", "≤": "<="}
"""What a terminal that knows ASCII alone gets."""
COMMAND_START = re.compile(r"^(\s*):(?=:)")


def printable(text: str) -> str:
    """Every character that a terminal would act on (escape, carriage return, line feed, tab) spelled as Python spells it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def encodable(text: str, encoding: str) -> str:
    """``text`` in characters that ``encoding`` has; one that has no spelling becomes ``?``."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        spelled = "".join(SPELLED.get(char, char) for char in text)
        return spelled.encode(encoding, "replace").decode(encoding)
    return text


def without_commands(text: str) -> str:
    """No line that GitHub Actions takes for a workflow command: ``::`` after white space, ``##[`` anywhere."""
    lines = text.replace("##[", "# #[").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(COMMAND_START.sub(r"\1: ", line) for line in lines)
