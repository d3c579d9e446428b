"""The encoder of ``kv_fast``: parameters, low bits, symbols, and the rANS words, last symbol first."""

from __future__ import annotations

from typing import Any

import numpy as np

from h2o_gate_plugin.jit import kernel
from h2o_gate_plugin.kv.fast_bits import LONGEST_CHANNEL_BITS, LONGEST_ROW_BITS, best_rice, put_channels, put_rows
from h2o_gate_plugin.kv.fast_decode import low_bytes
from h2o_gate_plugin.kv.fast_model import TOGETHER, choose_channels, choose_rows, normalise, sane_values
from h2o_gate_plugin.kv.fast_rows import ALONE, COPY, I32, KINDS, LANES, U8, Typed, exact_kernel, fill_kind, row_contexts, set_means
from h2o_gate_plugin.kv.fast_tables import CLASSES, ESCAPE, ESCAPED, F32, I64, SLOT_BITS, U16, U32, U64

_WORD, _START = np.uint64(0xFFFF), np.uint64(1 << 16)
_11, _16, _21, _43 = np.uint64(SLOT_BITS), np.uint64(16), np.uint64(32 - SLOT_BITS), np.uint64(32 + SLOT_BITS)


@kernel
def encode(
    words: Typed, low_bits: int, weighted: bool, adjacent: bool, n_header: int, every_low: bool, roots: F32, inverse_roots: F32,
    steps: I64, symbol_codes: U32, reciprocals: U64, out: U8,
) -> tuple[int, int, int]:  # fmt: skip
    """Write a payload of ``words`` [n_seq, n], both > 0, after ``n_header`` bytes; returns its end and the two Rice parameters.

    ``every_low``: the low bits stand elsewhere. ``out``: `longest` bytes.
    """
    n_seq, n = words.shape
    padded = -(-n // LANES) * LANES
    bias = 15 if low_bits == 8 else 127
    values = np.empty((n_seq, n), dtype=np.float32)
    sane_values(words, 65504.0 if low_bits == 8 else 1e17, values)
    scales, levels, weights = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    choose_channels(values, bias, weighted, roots, scales, levels, weights)
    mean, weight = np.zeros(padded, dtype=np.float32), np.zeros(padded, dtype=np.float32)
    set_means(scales, levels, weights, bias, roots, mean, weight)
    table_at, shift = np.empty((KINDS, padded), dtype=np.uint32), np.empty((KINDS, padded), dtype=np.int32)
    inverse = np.empty((KINDS, padded), dtype=np.float32)
    for kind in range(KINDS):
        fill_kind(kind, scales, weights, bias, inverse_roots, steps, table_at[kind], shift[kind], inverse[kind])
    z, weighted_z = np.empty((n_seq + TOGETHER, n), dtype=np.float32), np.empty((n_seq + TOGETHER, n), dtype=np.float32)
    normalise(values, mean, weight, inverse[CLASSES + 1], z, weighted_z)
    references, codes, classes = np.empty(n_seq, dtype=np.int32), np.empty(n_seq, dtype=np.int32), np.empty(n_seq, dtype=np.int32)
    choose_rows(words, z, weighted_z, adjacent, references, codes, classes)
    jumps = np.empty(n, dtype=np.int64)
    for c in range(n):
        jumps[c] = scales[c] - (scales[c - 1] if c else 4 * bias)
    k_scale, k_mean = best_rice(jumps), best_rice(levels)
    for i in range(n_header, n_header + bit_bytes(n_seq, n)):
        out[i] = 0
    at = put_channels(out, 8 * n_header, jumps, levels, weights, weighted, k_scale, k_mean)
    at = put_rows(out, at, references, codes, classes, adjacent)
    p = -(-at // 8)
    if not every_low:
        p = put_low(words, low_bits, codes, out, p)
    entries, escapes = np.empty((n_seq, padded), dtype=np.uint32), np.empty(n_seq * n, dtype=np.uint16)
    n_coded, n_escapes = code_rows(
        words, low_bits, mean, weight, references, codes, classes, table_at, shift, inverse, symbol_codes.reshape(-1), entries, escapes
    )
    stream = np.empty(n_coded * padded + 2 * LANES + 1, dtype=np.uint16)
    first = push_rows(entries, n_coded, reciprocals, stream)
    out[p] = 0
    p += p & 1
    for i in range(first, len(stream)):
        out[p] = stream[i] & 255
        out[p + 1] = stream[i] >> 8
        p += 2
    return put_escapes(escapes, n_escapes, low_bits, out, p), k_scale, k_mean


def longest(n_seq: int, n: int, low_bits: int, n_header: int) -> int:
    """Bytes that no payload of ``n_seq`` rows of ``n`` exceeds: one word and one escape per symbol at most."""
    symbols = n_seq * -(-n // LANES) * LANES
    return n_header + (LONGEST_CHANNEL_BITS * n + LONGEST_ROW_BITS * n_seq) // 8 + symbols + 2 * symbols + 2 * symbols + 4 * LANES + 16


@kernel
def uneven_low_bits(words: Typed, low_bits: int) -> bool:
    """Whether the low bits of every fourth row are far from equally frequent, by the sum of squares of their counts."""
    counts = np.zeros(256, dtype=np.int64)
    mask, total = (1 << low_bits) - 1, 0
    for row in range(0, len(words), 4):
        for c in range(words.shape[1]):
            counts[np.int32(words[row, c]) & mask] += 1
        total += words.shape[1]
    squares = 0
    for value in range(256):
        squares += counts[value] * counts[value]
    return 2 * (squares - total) > 3 * (total * total >> low_bits)  # even: about total^2 / values + total


@kernel
def every_low_bits(words: Typed, low_bits: int, out: U8) -> None:
    """The low bits of all rows, in all but the last byte."""
    put_low(words, low_bits, np.full(len(words), ALONE, dtype=np.int32), out, 0)


@kernel
def bit_bytes(n_seq: int, n: int) -> int:
    """Most bytes of the bit string, and those that `put` touches after it."""
    return (LONGEST_CHANNEL_BITS * n + LONGEST_ROW_BITS * n_seq) // 8 + 4


@kernel
def put_low(words: Typed, low_bits: int, codes: I32, out: U8, p: int) -> int:
    """The low bits of the rows that are no copies; the position after them."""
    n = words.shape[1]
    for row in range(len(words)):
        if codes[row] == COPY:
            continue
        if low_bits == 8:
            for c in range(n):
                out[p + c] = words[row, c] & 255
        else:
            for i in range(low_bytes(n, low_bits) + 1):
                out[p + i] = 0
            for c in range(n):
                moved = (np.int32(words[row, c]) & 31) << (5 * c & 7)
                out[p + (5 * c >> 3)] |= moved & 255
                out[p + (5 * c >> 3) + 1] |= moved >> 8
        p += low_bytes(n, low_bits)
    return p


@exact_kernel
def code_rows(
    words: Typed, low_bits: int, mean: F32, weight: F32, references: I32, codes: I32, classes: I32, table_at: U32, shift: I32,
    inverse: F32, symbol_codes: U32, entries: U32, escapes: U16,
) -> tuple[int, int]:  # fmt: skip
    """The table entry of every symbol of the rows that are no copies, and the upper bits of escapes; returns the number of both."""
    n_coded = n_escapes = 0
    slot_at, flips = np.empty(len(mean), dtype=np.uint32), np.empty(len(mean), dtype=np.int32)
    for row in range(len(words)):
        if codes[row] == COPY:
            continue
        kind = classes[row] + (CLASSES if codes[row] == ALONE else 0)
        row_contexts(words[max(0, references[row])], codes[row], mean, weight, table_at[kind], inverse[kind], slot_at, flips)
        if code_row(words[row], low_bits, shift[kind], slot_at, flips, symbol_codes, entries[n_coded]):
            for c in range(words.shape[1]):
                if entries[n_coded, c] & ESCAPED:
                    entries[n_coded, c] &= ESCAPED - 1
                    escapes[n_escapes] = (np.int32(words[row, c]) & 0xFFFF) >> low_bits
                    n_escapes += 1
        n_coded += 1
    return n_coded, n_escapes


@exact_kernel
def code_row(row: Typed, low_bits: int, shift: I32, slot_at: U32, flips: I32, symbol_codes: U32, entries: U32) -> bool:
    """Entries of one row; returns whether any is marked ESCAPED."""
    for c in range(len(row)):
        word = np.int32(row[c])
        level = ((word & 0x7FFF) >> low_bits) - shift[c]
        symbol = level | ((word >> 8 & 128) ^ flips[c])
        slot_at[c] = (slot_at[c] >> np.uint32(SLOT_BITS - 8)) + np.uint32(symbol if 0 <= level < ESCAPE else ESCAPE)
    for c in range(len(row), len(entries)):
        slot_at[c] = slot_at[c] >> np.uint32(SLOT_BITS - 8)
    seen = np.uint32(0)
    for c in range(len(entries)):
        entry = symbol_codes[slot_at[c]]
        entries[c] = entry
        seen |= entry
    return bool(seen & ESCAPED)


@exact_kernel
def push_rows(entries: U32, n_coded: int, reciprocals: U64, stream: U16) -> Any:
    """The words of all symbols, the eight first states before them; returns where they start in ``stream``, which ends with them."""
    p = np.uint64(len(stream))
    a = b = c = d = e = f = g = h = _START
    for back in range(1, n_coded + 1):
        row = entries[n_coded - back]
        for i in range(len(row) - LANES, -1, -LANES):
            h, p = push(h, row[i + 7], reciprocals, stream, p)
            g, p = push(g, row[i + 6], reciprocals, stream, p)
            f, p = push(f, row[i + 5], reciprocals, stream, p)
            e, p = push(e, row[i + 4], reciprocals, stream, p)
            d, p = push(d, row[i + 3], reciprocals, stream, p)
            c, p = push(c, row[i + 2], reciprocals, stream, p)
            b, p = push(b, row[i + 1], reciprocals, stream, p)
            a, p = push(a, row[i], reciprocals, stream, p)
    start = np.int64(p)
    for state in (h, g, f, e, d, c, b, a):
        start -= 2
        stream[start] = state & _WORD
        stream[start + 1] = state >> _16
    return start


@exact_kernel
def push(state: Any, code: Any, reciprocals: U64, stream: U16, p: Any) -> tuple[Any, Any]:
    """Code one symbol into ``state`` and its overflow before ``p``, where a word is written whether it is needed or not.

    The quotient by a reciprocal is exact for state < frequency << 21, which holds after the overflow.
    """
    entry = np.uint64(code)
    frequency = entry & _WORD
    full = np.uint64(state >= frequency << _21)
    stream[p - np.uint64(1)] = state & _WORD
    state = state >> _16 if full else state
    quotient = state * reciprocals[frequency] >> _43
    return (quotient << _11) + (state - quotient * frequency) + (entry >> _16), p - full


@kernel
def put_escapes(escapes: U16, n_escapes: int, low_bits: int, out: U8, p: int) -> int:
    """Last one first; the position after them."""
    for i in range(n_escapes - 1, -1, -1):
        out[p] = escapes[i] & 255
        p += 1
        if low_bits != 8:
            out[p] = escapes[i] >> 8
            p += 1
    return p
