"""A picture of two colours as PNG, one of them transparent: 1 bit a pixel, standard library alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

Colour = tuple[int, int, int]


def bitmap_png(rows: Sequence[Sequence[tuple[int, int]]], width: int, colour: Colour) -> bytes:
    """``rows``: from the top, runs [start, end) of pixels that have the colour; all others are transparent."""
    n_bytes = (width + 7) // 8
    lines = []
    for runs in rows:
        bits = 0
        for start, end in runs:
            bits |= ((1 << (end - start)) - 1) << (8 * n_bytes - end)
        lines.append(b"\0" + bits.to_bytes(n_bytes, "big"))
    header = struct.pack(">IIBBBBB", width, len(rows), 1, 3, 0, 0, 0)  # one bit, palette
    chunks = ((b"IHDR", header), (b"PLTE", bytes((0, 0, 0, *colour))), (b"tRNS", b"\0"), (b"IDAT", zlib.compress(b"".join(lines), 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in (*chunks, (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
