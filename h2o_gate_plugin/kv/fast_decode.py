"""The decoder of ``kv_fast``: one compiled call from the payload to the words. It trusts nothing that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from h2o_gate_plugin.kv.fast_bits import read_channels, read_rows
from h2o_gate_plugin.kv.fast_rows import ALONE, COPY, I32, KINDS, LANES, U8, Typed, exact_kernel, fill_kind, row_contexts, set_means
from h2o_gate_plugin.kv.fast_tables import CLASSES, ESCAPE, F32, I64, SLOT_BITS, SLOTS, U16, U32, U64

DONE, CHANNELS, ROWS, STREAM, REST = range(5)
"""What is wrong: the channels' bits, the rows' bits, the coded words end early, or not all of the payload was used."""

_LOW_STATE = np.uint64(1 << 16)
_SLOT_MASK, _SLOT_BITS = np.uint64(SLOTS - 1), np.uint64(SLOT_BITS)
_1, _2, _3, _4, _5, _6, _7, _8, _16 = (np.uint64(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 16))


@exact_kernel
def decode(
    data: U8, n_payload: int, n_header: int, low: U8, weighted: bool, adjacent: bool, k_scale: int, k_mean: int, low_bits: int,
    roots: F32, inverse_roots: F32, steps: I64, slots: U32, words: Typed,
) -> int:  # fmt: skip
    """Fill ``words`` [n_seq, n], n > 0; returns DONE or what is wrong.

    ``data``: the payload, and after its ``n_payload`` bytes `padding` more, so that a row may be read before its end is checked.
    ``low``: the low bits of all rows; empty: those of the rows that are no copies follow the bit string.
    """
    n_seq, n = words.shape
    padded = -(-n // LANES) * LANES
    bias = 15 if low_bits == 8 else 127
    scales, levels, weights = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    at = read_channels(data, 8 * n_header, 8 * n_payload, weighted, k_scale, k_mean, bias, scales, levels, weights)
    if at < 0:
        return CHANNELS
    references, codes, classes = np.empty(n_seq, dtype=np.int32), np.empty(n_seq, dtype=np.int32), np.empty(n_seq, dtype=np.int32)
    at = read_rows(data, at, 8 * n_payload, adjacent, references, codes, classes)
    if at < 0:
        return ROWS
    mean, weight = np.zeros(padded, dtype=np.float32), np.zeros(padded, dtype=np.float32)
    set_means(scales, levels, weights, bias, roots, mean, weight)
    p, low_at, row_bytes, every_row = -(-at // 8), 0, low_bytes(n, low_bits), len(low) > 0
    if not every_row:
        low, low_at = data, p
        for row in range(n_seq):
            p += row_bytes if codes[row] != COPY else 0
    p += p & 1  # words are even
    if p + 4 * LANES > n_payload:
        return STREAM
    states = np.empty(LANES, dtype=np.uint64)
    for lane in range(LANES):
        states[lane] = data[p] | data[p + 1] << 8 | data[p + 2] << 16 | data[p + 3] << 24
        p += 4
    table_at, shift = np.empty((KINDS, padded), dtype=np.uint32), np.empty((KINDS, padded), dtype=np.int32)
    inverse, filled = np.empty((KINDS, padded), dtype=np.float32), np.zeros(KINDS, dtype=np.uint8)
    work, flips, flat = np.empty(padded, dtype=np.uint32), np.empty(padded, dtype=np.int32), slots.reshape(-1)
    stream = data.view(np.uint16)
    escapes_at = n_payload
    for row in range(n_seq):
        if codes[row] == COPY:
            for c in range(n):
                words[row, c] = words[references[row], c]
            low_at += row_bytes if every_row else 0
            continue
        kind = classes[row] + (CLASSES if codes[row] == ALONE else 0)
        if not filled[kind]:
            fill_kind(kind, scales, weights, bias, inverse_roots, steps, table_at[kind], shift[kind], inverse[kind])
            filled[kind] = 1
        row_contexts(words[max(0, references[row])], codes[row], mean, weight, table_at[kind], inverse[kind], work, flips)
        p = 2 * take_row(states, work, flat, stream, p >> 1)
        n_escapes = join_row(work, flips, shift[kind], low, low_at, low_bits, words[row])
        low_at += row_bytes
        escapes_at -= n_escapes * (1 if low_bits == 8 else 2)
        if p > escapes_at:
            return STREAM
        if n_escapes:
            place_escapes(work, data, escapes_at, low_bits, words[row])
    for lane in range(LANES):
        if states[lane] != _LOW_STATE:
            return REST
    return DONE if p == escapes_at else REST


def padding(n: int, n_payload: int) -> int:
    """Bytes after a payload: more than a row of words, and an even number with it."""
    return 2 * n + 64 + (n_payload & 1)


@exact_kernel
def low_bytes(n: int, low_bits: int) -> int:
    """Bytes of the low bits of a row: one a channel, or five for every eight."""
    return n if low_bits == 8 else -(-n // LANES) * low_bits


@exact_kernel
def take_row(states: U64, work: U32, slots: U32, stream: U16, start: int) -> Any:
    """Replace every channel's first slot by the entry of its symbol; returns the word after the row, at most one a channel on.

    Eight states take turns, so that eight symbols are under way at once. They are local names to stay in registers, and unsigned
    because a signed index costs a test.
    """
    a, b, c, d, e, f, g, h = states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7]
    p, i, end = np.uint64(start), np.uint64(0), np.uint64(len(work))
    while i < end:
        a, p = take(a, work, i, slots, stream, p)
        b, p = take(b, work, i + _1, slots, stream, p)
        c, p = take(c, work, i + _2, slots, stream, p)
        d, p = take(d, work, i + _3, slots, stream, p)
        e, p = take(e, work, i + _4, slots, stream, p)
        f, p = take(f, work, i + _5, slots, stream, p)
        g, p = take(g, work, i + _6, slots, stream, p)
        h, p = take(h, work, i + _7, slots, stream, p)
        i += _8
    states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7] = a, b, c, d, e, f, g, h
    return np.int64(p)


@exact_kernel
def take(state: Any, work: U32, i: Any, slots: U32, stream: U16, p: Any) -> tuple[Any, Any]:
    """One symbol; returns the next state and stream position. The word at ``p`` is read whether it is needed or not."""
    entry = slots[np.uint64(work[i]) + (state & _SLOT_MASK)]
    work[i] = entry
    state = np.uint64(entry >> np.uint32(20)) * (state >> _SLOT_BITS) + np.uint64(entry & np.uint32(0xFFF))
    filled = state << _16 | np.uint64(stream[p])
    return filled if state < _LOW_STATE else state, p + np.uint64(state < _LOW_STATE)


@exact_kernel
def join_row(entries: U32, flips: I32, shift: I32, low: U8, low_at: int, low_bits: int, out: Typed) -> int:
    """Words from the symbols' entries and low bits; returns how many symbols are escapes, whose upper bits are yet to come."""
    n_escapes = 0
    for c in range(len(out)):
        symbol = np.int32(entries[c] >> np.uint32(12)) & 255
        n_escapes += (symbol & ESCAPE) == ESCAPE
        sign = ((symbol ^ flips[c]) & 128) << 8
        upper = (symbol & 127) + shift[c]
        if low_bits == 8:
            out[c] = sign | (upper & 127) << 8 | np.int32(low[low_at + c])
        else:
            at = low_at + (5 * c >> 3)
            two = np.int32(low[at]) | np.int32(low[at + 1]) << 8
            out[c] = sign | (upper & 1023) << 5 | (two >> (5 * c & 7) & 31)
    return n_escapes


@exact_kernel
def place_escapes(entries: U32, data: U8, at: int, low_bits: int, out: Typed) -> None:
    """Sign and upper bits of the row's escapes from ``data``, which holds them last channel first."""
    for i in range(len(out)):
        c = len(out) - 1 - i
        if entries[c] >> np.uint32(12) & np.uint32(ESCAPE) == ESCAPE:
            upper = np.int32(data[at])
            at += 1
            if low_bits != 8:
                upper |= np.int32(data[at]) << 8
                at += 1
            out[c] = upper << low_bits | (np.int32(out[c]) & ((1 << low_bits) - 1))
