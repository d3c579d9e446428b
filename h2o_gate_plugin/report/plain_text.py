"""Text from outside, an engine's last words say, made safe to print: no control characters, nothing that the reader takes for a command."""

from __future__ import annotations

import re
from html import escape as escape_markup

from h2o_gate_plugin.errors import printable as printable

SPELLED = {"…": "...", "±": "+/-", "×": "x", "→": "->", "–": "-", "—": "-", "≥": ">=", "≤": "<="}
"""What a terminal that knows ASCII alone gets."""
COMMAND_START = re.compile(r"^(\s*):(?=:)")


def escape(text: str) -> str:
    """Text of a page: markup escaped, and what would change the direction of the text around it, or show nothing, spelled."""
    return escape_markup(printable(text))


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
