"""What an engine's output says of integrity: lines that tell of broken KV, and the statistics lines of the contract.

Source: the llm_bench contract ("Log lines"). Any engine's output is read; nothing in it is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BROKEN = re.compile(
    r"\b(?:checksum|crc|hash)\b.{0,40}\b(?:error|fail\w*|wrong|differ\w*|mismatch\w*|bad)\b"
    r"|\bcorrupt\w*|\bmismatch(?:es|ed)?\b(?!\s*[=:]\s*0\b)|\bnot bit-?(?:equal|exact|identical)\b|\bzero-?fill\w*"
    r"|\b(?:decode|decompress\w*|round-?trip)\b.{0,40}\bfail\w*"
    r"|(?<![\w./])(?:-?nan|[+-]?inf)(?![\w./-])|\bnon-?finite\b|\bassert(?:ion)?\b.{0,40}\bfail\w*"
    r"|\bout of (?:bounds|range)\b|\bAddressSanitizer\b|\bruntime error:|\bheap-(?:buffer|use)\w*|\bplan\w*\b.{0,30}\bdropped\b",
    re.IGNORECASE,
)
"""Words with which engines and sanitizers tell that KV, frames, plans or numbers are broken."""

STEMS = (
    "checksum", "crc", "hash", "corrupt", "mismatch", "not bit", "zero", "fail", "nan", "inf", "finite", "out of", "sanitizer",
    "runtime error", "heap-", "dropped",
)  # fmt: skip
"""One of them stands in every ASCII line that BROKEN finds: to ask for them first takes a twentieth of its time."""

CLEAN = re.compile(
    r"\b(?:no|without|0)\s+(?:\w+\s+)?(?:corrupt\w*|mismatch\w*|checksum errors?|crc errors?)|\bmismatch\w*\s*[=:]\s*0\b", re.IGNORECASE
)
"""The same words in a line that denies it."""

PLAN_LINE = re.compile(r"^\[H2O\] layer=(\d{1,9}) kv=(\d{1,9}) .*?\bevict=(\d{1,9})\b")
GROUP_LINE = re.compile(
    r"^\[H2O-LOSSLESS\] layer=(\d{1,9}) .*?\btokens=(\d{1,9}) raw=(\d{1,18}) .*?\bupdates=(\d{1,9}) fallback=([01]) backpressure=([01])\b"
)
MOST_LINES_KEPT = 20
LONGEST_LINE = 4096
"""Characters; the rest of a longer line is not looked at."""


@dataclass(frozen=True)
class LogFacts:
    """``broken``: ``file:line: text`` of the first such lines, ``n_broken`` how many there are.

    ``planned``: layers with a plan that evicted.
    ``groups``: (layer, updates, tokens) of every group that was encoded and not refused, in order; ``encoded_bytes``: layer → raw bytes
    of those without fallback.
    """

    broken: tuple[str, ...]
    n_broken: int
    planned: frozenset[int]
    groups: tuple[tuple[int, int, int], ...]
    encoded_bytes: dict[int, int]


def scan_log(*paths: Path) -> LogFacts | None:
    """Read the outputs of one process, as UTF-8 with what is not replaced; None when none of them is there."""
    found = [path for path in dict.fromkeys(paths) if path.is_file()]
    if not found:
        return None
    broken: list[str] = []
    n_broken = 0
    planned: set[int] = set()
    groups: dict[tuple[int, int, int], None] = {}
    encoded: dict[int, int] = {}
    for path in found:
        for number, line in _lines(path):
            if line.startswith("|"):
                continue  # the table has a grammar of its own
            if plan := PLAN_LINE.match(line):
                if int(plan[3]) > 0:
                    planned.add(int(plan[1]))
            elif group := GROUP_LINE.match(line):
                layer, tokens, raw, updates, fallback, backpressure = (int(text) for text in group.groups())
                if not backpressure:
                    groups[layer, updates, tokens] = None
                    if not fallback:
                        encoded[layer] = encoded.get(layer, 0) + raw
            if tells_of_broken_kv(line):
                n_broken += 1
                if len(broken) < MOST_LINES_KEPT:
                    broken.append(f"{path.name}:{number}: {' '.join(line.split())[:200]}")
    return LogFacts(tuple(broken), n_broken, frozenset(planned), tuple(groups), encoded)


def tells_of_broken_kv(line: str) -> bool:
    lower = line.lower()
    if line.isascii() and not any(stem in lower for stem in STEMS):
        return False
    return BROKEN.search(line) is not None and CLEAN.search(line) is None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, each cut at LONGEST_LINE: a line without an end must not fill the memory."""
    with path.open(encoding="utf-8", errors="replace") as file:
        number, fresh = 1, True
        while part := file.readline(LONGEST_LINE):
            if fresh:
                yield number, part
            fresh = part.endswith("\n")
            number += fresh
