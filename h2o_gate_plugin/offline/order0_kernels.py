"""Compiled loops of the order-0 statistics: histograms, rows and strings of bytes that stood earlier, entropy in pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import kernel
from h2o_gate_plugin.kv.planes import U8, U16

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@kernel
def count_bytes(words: U16, high: I64, low: I64) -> int:
    """Add the bytes of ``words`` [n] to the histograms [256]; returns how many words are +0 or -0."""
    zeros = 0
    for i in range(len(words)):
        high[words[i] >> 8] += 1
        low[words[i] & 0xFF] += 1
        zeros += (words[i] & 0x7FFF) == 0
    return zeros


@kernel
def count_repeated_rows(rows: U64, slots: I64) -> int:
    """How many of ``rows`` [n_row, n_word] equal an earlier one, word by word. ``slots``: a power of two above n_row times -1."""
    last = np.uint64(len(slots) - 1)
    count = 0
    for i in range(len(rows)):
        code = np.uint64(0)
        for c in range(rows.shape[1]):
            code = (code ^ rows[i, c]) * np.uint64(0x9E3779B97F4A7C15)
            code ^= code >> np.uint64(29)
        slot = (code ^ (code >> np.uint64(32))) & last
        while slots[slot] >= 0 and not np.array_equal(rows[slots[slot]], rows[i]):
            slot = (slot + np.uint64(1)) & last
        if slots[slot] >= 0:
            count += 1
        else:
            slots[slot] = i
    return count


@kernel
def mark_repeated_strings(symbols: U8, string_bytes: int, seen: U64, repeated: Mask) -> None:
    """Set ``repeated[i]`` where byte i of [n] lies in a string of ``string_bytes`` (at most 4) bytes that starts earlier too.

    ``seen``: a power of two of zero words, a Bloom filter of two bits per string in one word: the marks can be too many, never too few.
    """
    shift = np.uint64(64)
    while np.uint64(1) << (np.uint64(64) - shift) < np.uint64(len(seen)):
        shift -= np.uint64(1)
    keep = (np.uint64(1) << np.uint64(8 * string_bytes)) - np.uint64(1)
    string = np.uint64(0)
    reached = -1  # the last byte that a repeated string covers
    for i in range(len(symbols)):
        string = (string << np.uint64(8) | np.uint64(symbols[i])) & keep
        if i + 1 < string_bytes:
            continue
        code = string * np.uint64(0x9E3779B97F4A7C15)
        word = code >> shift if len(seen) > 1 else np.uint64(0)
        bits = np.uint64(1) << (code >> np.uint64(26) & np.uint64(63)) | np.uint64(1) << (code >> np.uint64(20) & np.uint64(63))
        if seen[word] & bits == bits:
            for c in range(max(reached + 1, i + 1 - string_bytes), i + 1):
                repeated[c] = True
            reached = i
        else:
            seen[word] |= bits


@kernel
def entropy_bits(symbols: U8, repeated: Mask, block_bytes: int, piece_bytes: int, n_log_n: F64) -> float:
    """Order-0 entropy of the bytes of [n] that are not ``repeated``, each piece with its own histogram.

    Pieces end at multiples of ``piece_bytes`` and of ``block_bytes``. ``n_log_n``: i * log2(i) for i up to ``piece_bytes``.
    """
    counts = np.zeros(257, dtype=np.int64)  # the last one is for repeated bytes: no branch in the loop
    total = 0.0
    start = 0
    while start < len(symbols):
        end = min((start // piece_bytes + 1) * piece_bytes, (start // block_bytes + 1) * block_bytes, len(symbols))
        counts[:] = 0
        for i in range(start, end):
            counts[np.int64(256) if repeated[i] else np.int64(symbols[i])] += 1
        total += n_log_n[end - start - counts[256]]
        for byte in range(256):
            total -= n_log_n[counts[byte]]
        start = end
    return total
