"""Compiled loops of the order-0 statistics: histograms, rows and strings of bytes that stood earlier, entropy in pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import kernel
from h2o_gate_plugin.kv.planes import U8, U16

I64 = npt.NDArray[np.int64]
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
def count_repeated_rows(rows: U16, slots: I64) -> int:
    """How many of ``rows`` [n_row, n_word] equal an earlier one, word by word. ``slots``: a power of two above n_row times -1."""
    last = np.uint64(len(slots) - 1)
    count = 0
    for i in range(len(rows)):
        code = np.uint64(14695981039346656037)  # FNV-1a
        for c in range(rows.shape[1]):
            code = (code ^ np.uint64(rows[i, c])) * np.uint64(1099511628211)
        slot = (code ^ (code >> np.uint64(32))) & last
        while slots[slot] >= 0 and not np.array_equal(rows[slots[slot]], rows[i]):
            slot = (slot + np.uint64(1)) & last
        if slots[slot] >= 0:
            count += 1
        else:
            slots[slot] = i
    return count


@kernel
def mark_repeated_strings(symbols: U8, string_bytes: int, seen: U8, repeated: Mask) -> None:
    """Set ``repeated[i]`` where byte i of [n] lies in a string of ``string_bytes`` (at most 4) bytes that starts earlier too.

    ``seen``: a power of two of zero bytes, a Bloom filter of two bits per string: the marks can be too many, never too few.
    """
    n_bits = np.uint64(0)
    while np.uint64(1) << n_bits < np.uint64(len(seen)) * np.uint64(8):
        n_bits += np.uint64(1)
    mask = (np.uint64(1) << n_bits) - np.uint64(1)
    keep = (np.uint64(1) << np.uint64(8 * string_bytes)) - np.uint64(1)
    string = np.uint64(0)
    for i in range(len(symbols)):
        string = (string << np.uint64(8) | np.uint64(symbols[i])) & keep
        if i + 1 < string_bytes:
            continue
        code = string * np.uint64(0x9E3779B97F4A7C15)
        one, other = code >> (np.uint64(64) - n_bits), (code >> (np.uint64(64) - n_bits - n_bits)) & mask
        one_bit, other_bit = np.uint8(1) << np.uint8(one & np.uint64(7)), np.uint8(1) << np.uint8(other & np.uint64(7))
        if seen[one >> np.uint64(3)] & one_bit and seen[other >> np.uint64(3)] & other_bit:
            for c in range(i + 1 - string_bytes, i + 1):
                repeated[c] = True
        else:
            seen[one >> np.uint64(3)] |= one_bit
            seen[other >> np.uint64(3)] |= other_bit


@kernel
def entropy_bits(symbols: U8, repeated: Mask, block_bytes: int, piece_bytes: int) -> float:
    """Order-0 entropy of the bytes of [n] that are not ``repeated``, each piece with its own histogram.

    Pieces end at multiples of ``piece_bytes`` and of ``block_bytes``.
    """
    counts = np.zeros(256, dtype=np.int64)
    total = 0.0
    start = 0
    while start < len(symbols):
        end = min((start // piece_bytes + 1) * piece_bytes, (start // block_bytes + 1) * block_bytes, len(symbols))
        counts[:] = 0
        n = 0
        for i in range(start, end):
            if not repeated[i]:
                counts[symbols[i]] += 1
                n += 1
        for count in counts:
            if count > 0:
                total += count * np.log2(n / count)
        start = end
    return total
