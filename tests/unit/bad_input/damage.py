"""Damage to valid files, drawn from a `random.Random`: Hypothesis gives one that it can shrink, `make fuzz` a seeded one.

Each function takes whole bytes of a valid file and returns those of a damaged one; what is drawn is what they do, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]

HOSTILE_TEXT = (
    "",
    " ",
    "\0",
    "\n",
    "\x1b[31m",
    "\u202e",
    "\ufeff",
    "\ud800",
    "x" * 3000,
    "../../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "~nobody/x",
    "<script>alert(1)</script>",
    "](javascript:alert(1))",
    "::error::x",
    "%0A::error::x",
    "|",
    "`",
    "nan",
    "1e999",
    "9" * 5000,
    "٣",
    "-0",
    "0x10",
    "{config}",
    "{0.__class__}",
    "$(id)",
    "; id",
    "=1+1",
)
"""Words that are none, numbers that are too long, paths that leave their folder, text that means something to a shell or a page."""
NUMBERS = (-1, 0, 1, -0.0, 0.5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 1e308, 5e-324)
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "tru",
    "'a'",
    "1.",
    "01",
)
"""What stands in the text as it is: words that Python's json takes and JSON does not have, and nesting."""
YAML_VALUES = (
    '!!int ""',
    "!!bool x",
    "!!float x",
    "!!timestamp x",
    "!!binary x",
    "!!null x",
    "!!python/object/apply:os.system [id]",
    "&a [*a]",
    "*nowhere",
    "&b {<<: *b}",
    "{<<: {a: 1}}",
    "0x" + "f" * 5000,
    "1" + ":59" * 2000,
    "0o17",
    "0b1",
    "1_000",
    ".inf",
    "-.inf",
    ".nan",
    "~",
    "yes",
    "2001-99-99",
    "0001-01-01 00:00:00 +23:59",
    "!!set {a}",
    "? [a] : b",
    "[" * 500 + "]" * 500,
    "|\n  a",
    "'",
    '"\\ud800"',
    "%TAG",
    "\t",
    "--- a\n--- b",
    "@",
    "{a: 1, a: 2}",
)
BINARY_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


class _Raw(str):
    """Text that is written into the document as it is."""


def damaged_json(data: bytes, random: Random) -> bytes:
    """One to three places of the document changed: a value, a key dropped, doubled or renamed, an item repeated; at times its bytes too."""
    document = json.loads(data)
    for _ in range(random.randint(1, 3)):
        document = _changed(document, random)
    text = _dumped(document)
    return damaged_text(text, random) if random.randrange(8) == 0 else text


def _changed(value: Any, random: Random) -> Any:
    """``value`` with one place in it changed; how deep is drawn too."""
    if isinstance(value, dict):
        value = list(value.items())
        return _Pairs(_changed_items(value, random))
    if isinstance(value, _Pairs):
        return _Pairs(_changed_items(list(value), random))
    if isinstance(value, list) and value and random.randrange(4):
        index, what = random.randrange(len(value)), random.randrange(6)
        if what == 0:
            return value[:index] + value[index + 1 :]
        if what == 1:
            return value[: index + 1] + value[index:]
        return [*value[:index], _changed(value[index], random), *value[index + 1 :]]
    return _other(value, random)


class _Pairs(list[tuple[str, Any]]):
    """An object in which a key may stand twice."""


def _changed_items(items: list[tuple[str, Any]], random: Random) -> list[tuple[str, Any]]:
    if not items:
        return [(random.choice(HOSTILE_TEXT), _other(None, random))]
    index, what = random.randrange(len(items)), random.randrange(10)
    key, value = items[index]
    if what == 0:
        return items[:index] + items[index + 1 :]
    if what == 1:
        return [*items, (key, _other(value, random))]
    if what == 2:
        return [*items[:index], (random.choice(HOSTILE_TEXT), value), *items[index + 1 :]]
    return [*items[:index], (key, _changed(value, random)), *items[index + 1 :]]


def _other(value: Any, random: Random) -> Any:
    what = random.randrange(8)
    if what == 0:
        return random.choice((None, True, False))
    if what == 1:
        return random.choice(HOSTILE_TEXT)
    if what == 2:
        return random.choice(([], {}, [None], {"a": []}, [[1]], [value], {"a": value}))
    if what == 3:
        return _Raw(random.choice(RAW))
    if what == 4 and isinstance(value, str):
        return value + random.choice(HOSTILE_TEXT)
    return random.choice(NUMBERS)


def _dumped(value: Any) -> bytes:
    return _text(value).encode("utf-8", "backslashreplace")


def _text(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict | _Pairs):
        items = value.items() if isinstance(value, dict) else value
        return "{" + ", ".join(f"{json.dumps(key)}: {_text(item)}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value)


def damaged_yaml(data: bytes, random: Random) -> bytes:
    """A value of one or two lines replaced, or lines as in `damaged_text`."""
    if random.randrange(3) == 0:
        return damaged_text(data, random)
    lines = data.decode().split("\n")
    for _ in range(random.randint(1, 2)):
        index = random.randrange(len(lines))
        key, colon, _ = lines[index].partition(": ")
        value = random.choice(YAML_VALUES) if random.randrange(2) else _text(random.choice((*NUMBERS, *HOSTILE_TEXT)))
        lines[index] = f"{key}: {value}" if colon else f"{lines[index]}{value}"
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def damaged_text(data: bytes, random: Random) -> bytes:
    """Lines dropped, doubled, swapped or cut; a word of a line replaced; bytes inserted."""
    lines = data.split(b"\n")
    for _ in range(random.randint(1, 3)):
        index, what = random.randrange(len(lines)), random.randrange(7)
        if what == 0 and len(lines) > 1:
            del lines[index]
        elif what == 1:
            lines.insert(index, lines[random.randrange(len(lines))])
        elif what == 2:
            lines[index] = lines[index][: random.randrange(len(lines[index]) + 1)]
        elif what in (3, 4):
            for separator in (b",", b"|", b" "):
                words = lines[index].split(separator)
                if len(words) > 1:
                    words[random.randrange(len(words))] = _hostile_bytes(random)
                    lines[index] = separator.join(words)
                    break
        else:
            at = random.randrange(len(lines[index]) + 1)
            lines[index] = lines[index][:at] + _hostile_bytes(random) + lines[index][at:]
    return b"\n".join(lines)


def _hostile_bytes(random: Random) -> bytes:
    if random.randrange(4) == 0:
        return random.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\x00", b'"', b"\xef\xbb\xbf", b"\x85", b"\xe2\x80\xa8"))
    return random.choice(HOSTILE_TEXT).encode("utf-8", "backslashreplace")


def damaged_binary(data: bytes, random: Random) -> bytes:
    """Bytes changed, cut, repeated; a number of 1 to 8 bytes written somewhere, mostly near the start, where headers are."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(min(len(damaged), 128 if random.randrange(2) else len(damaged)) + 1)
        what = random.randrange(6)
        if what == 0:
            del damaged[at:]
        elif what == 1:
            del damaged[at : at + random.randint(1, 16)]
        elif what == 2:
            damaged[at:at] = damaged[at : at + random.randint(1, 64)]
        elif what == 3:
            size = random.choice((1, 2, 4, 8))
            damaged[at : at + size] = (random.choice(BINARY_NUMBERS) & (2 ** (8 * size) - 1)).to_bytes(
                size, random.choice(("little", "big"))
            )
        else:
            damaged[at : at + 1] = bytes((random.randrange(256),))
    return bytes(damaged)


def with_json_header(data: bytes, random: Random) -> bytes:
    """A safetensors file: its header as `damaged_json`, the length made right, or its bytes as they come."""
    if random.randrange(3) == 0:
        return damaged_binary(data, random)
    size = int.from_bytes(data[:8], "little")
    header = damaged_json(data[8 : 8 + size], random)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def with_numpy_header(data: bytes, random: Random) -> bytes:
    """A .npy file: its header as `damaged_text`, the length made right, or its bytes as they come."""
    if random.randrange(3) == 0:
        return damaged_binary(data, random)
    size = int.from_bytes(data[8:10], "little")
    header = damaged_text(data[10 : 10 + size], random)[:65535]
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + size :]
