"""The bit string of a ``kv_fast`` payload, lowest bit first: the parameters of every channel, then those of every row."""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.kv.fast_rows import ALONE, COPY, I32, U8, exact_kernel, highest_scale, lowest_scale
from h2o_gate_plugin.kv.fast_tables import I64

MAX_RICE = 8
LONGEST_CHANNEL_BITS, LONGEST_ROW_BITS = 66, 14
MAX_BACK = 256
"""Rows that a reference may lie back at most."""


@exact_kernel
def bits_at(data: U8, at: int, n: int) -> int:
    """``n`` <= 16 bits from bit ``at`` on."""
    byte = at >> 3
    three = np.int64(data[byte]) | np.int64(data[byte + 1]) << 8 | np.int64(data[byte + 2]) << 16
    return int(three >> (at & 7)) & ((1 << n) - 1)


@exact_kernel
def put(data: U8, at: int, value: int, n: int) -> int:
    """``n`` <= 16 bits into zeroed bytes; returns the bit after them."""
    moved, byte = value << (at & 7), at >> 3
    data[byte] |= moved & 255
    data[byte + 1] |= moved >> 8 & 255
    data[byte + 2] |= moved >> 16 & 255
    return at + n


@exact_kernel
def rice_at(data: U8, at: int, k: int) -> tuple[int, int]:
    """A signed number and the bit after it, as `put_rice` writes it."""
    ones, n = bits_at(data, at, 16), 0
    while n < 16 and ones >> n & 1:
        n += 1
    if n == 16:
        folded, end = bits_at(data, at + 16, 16), at + 32
    else:
        folded, end = n << k | bits_at(data, at + n + 1, k), at + n + 1 + k
    return (folded >> 1) ^ -(folded & 1), end


@exact_kernel
def put_rice(data: U8, at: int, value: int, k: int) -> int:
    """Of the folded number (0, -1, 1, -2 …) all but k bits as so many ones and a zero, then k bits; 16 ones: 16 bits follow."""
    folded = (value << 1) ^ (value >> 63)
    n = folded >> k
    if n > 15:
        return put(data, put(data, at, 0xFFFF, 16), folded, 16)
    at = put(data, at, (1 << n) - 1, n + 1)
    return put(data, at, folded & ((1 << k) - 1), k)


@exact_kernel
def best_rice(values: I64) -> int:
    """The k that takes the fewest bits for all ``values``."""
    best, least = 0, 1 << 62
    for k in range(MAX_RICE + 1):
        bits = 0
        for i in range(len(values)):
            n = ((values[i] << 1) ^ (values[i] >> 63)) >> k
            bits += n + 1 + k if n < 16 else 32
        if bits < least:
            best, least = k, bits
    return best


@exact_kernel
def put_channels(data: U8, at: int, jumps: I64, levels: I64, weights: I64, weighted: bool, k_scale: int, k_mean: int) -> int:
    """Per channel: the step of its deviation from the channel before (quarter octaves), its mean, and its weight where ``weighted``."""
    for c in range(len(jumps)):
        at = put_rice(data, at, jumps[c], k_scale)
        at = put_rice(data, at, levels[c], k_mean)
        if weighted:
            at = put(data, at, weights[c], 2)
    return at


@exact_kernel
def read_channels(
    data: U8, at: int, end: int, weighted: bool, k_scale: int, k_mean: int, bias: int, scales: I64, levels: I64, weights: I64
) -> int:
    """The bit after what `put_channels` wrote; -1 where the bits end at ``end`` or a deviation is out of range."""
    quarters, low, high = 4 * bias, lowest_scale(bias), highest_scale(bias)
    for c in range(len(scales)):
        step, at = rice_at(data, at, k_scale)
        levels[c], at = rice_at(data, at, k_mean)
        quarters += step
        weights[c] = 3
        if weighted:
            weights[c] = bits_at(data, at, 2)
            at += 2
        if at > end or quarters < low or quarters > high:
            return -1
        scales[c] = quarters
    return at


@exact_kernel
def put_rows(data: U8, at: int, references: I32, codes: I32, classes: I32, adjacent: bool) -> int:
    """Per row: its code; how far back its reference lies, where it has one and not all are ``adjacent``; its class, if no copy."""
    for row in range(len(codes)):
        at = put(data, at, codes[row], 3)
        if codes[row] != ALONE and not adjacent:
            at = put(data, at, row - references[row] - 1, reference_bits(row))
        if codes[row] != COPY:
            at = put(data, at, classes[row], 3)
    return at


@exact_kernel
def read_rows(data: U8, at: int, end: int, adjacent: bool, references: I32, codes: I32, classes: I32) -> int:
    """The bit after what `put_rows` wrote; -1 where the bits end at ``end`` or a reference lies before the first row."""
    for row in range(len(codes)):
        codes[row], at = bits_at(data, at, 3), at + 3
        references[row], classes[row] = -1, 0
        if codes[row] != ALONE:
            width = 0 if adjacent else reference_bits(row)
            references[row] = row - 1 - bits_at(data, at, width)
            at += width
            if references[row] < 0:
                return -1
        if codes[row] != COPY:
            classes[row] = bits_at(data, at, 3)
            at += 3
        if at > end:
            return -1
    return at


@exact_kernel
def reference_bits(row: int) -> int:
    """Bits that tell the earlier rows within MAX_BACK apart."""
    width = 0
    while width < 8 and (1 << width) < row:
        width += 1
    return width
