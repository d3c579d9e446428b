"""Compiled entropy coder of codec ``kv_max``: rANS over intervals of 2^26, and 16-bit words under a mixture of two normal predictions.

Integers only, and one correctly rounded square root: every machine gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import Function, kernel
from h2o_gate_plugin.kv.max_tables import CDF_BITS, REACH_SIGMA

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
i64 = cast(Callable[[Any], int], np.int64)
"""To a kernel a 64-bit integer, to a type checker an int."""

FREQ_BITS = 26
"""Every 16-bit word has at least 2^-26 of the probability: 2^16 words take 0.1 % of it."""
STATE_LOW = 1 << 31
LIMIT = 1 << 27
"""Values and residuals are held to 2^11 nominal spreads."""


def strict(function: Function) -> Function:
    """Compiled without reordering and contraction, although hardly a float is in sight."""
    return kernel(function, frozenset())


class Coder(NamedTuple):
    """One rANS stream. Decoding: ``state`` [1], ``at`` [1], ``words``. Encoding: ``starts`` and ``sizes`` of ``at`` [1] intervals."""

    state: U64
    at: I64
    words: U32
    starts: U32
    sizes: U32


@strict
def decode_target(coder: Coder) -> int:
    return i64(coder.state[0] & np.uint64((1 << FREQ_BITS) - 1))


@strict
def put(coder: Coder, start: int, size: int) -> None:
    at = coder.at[0]
    coder.starts[at] = start
    coder.sizes[at] = size
    coder.at[0] = at + 1


@strict
def take(coder: Coder, start: int, size: int, target: int) -> None:
    """Leave the interval that ``target`` fell into. A stream that is too short runs on zeros; the end's check finds it."""
    state = np.uint64(size) * (coder.state[0] >> np.uint64(FREQ_BITS)) + np.uint64(target - start)
    if state < np.uint64(STATE_LOW):
        word = np.uint64(0)
        if coder.at[0] < len(coder.words):
            word = np.uint64(coder.words[coder.at[0]])
        coder.at[0] += 1
        state = state << np.uint64(32) | word
    coder.state[0] = state


@strict
def pack_intervals(starts: U32, sizes: U32, n: int, words: U32) -> tuple[np.uint64, int]:
    """rANS (Duda 2013) over the intervals, last first: the final state, and how many words lie at the end of ``words``."""
    state = np.uint64(STATE_LOW)
    at = len(words)
    for back in range(n):
        i = n - 1 - back
        size = np.uint64(sizes[i])
        if state >= np.uint64((STATE_LOW >> FREQ_BITS) << 32) * size:
            at -= 1
            words[at] = np.uint32(state & np.uint64(0xFFFFFFFF))
            state = state >> np.uint64(32)
        state = (state // size << np.uint64(FREQ_BITS)) + state % size + np.uint64(starts[i])
    return state, len(words) - at


@strict
def code_flag(decoding: bool, coder: Coder, flag: int, chance: I64) -> int:
    """A yes or no under the chance of yes ``chance[0]`` (2^-16), which moves an eighth of the way to the answer."""
    yes = max(64, min(65536 - 64, chance[0])) << (FREQ_BITS - 16)
    if decoding:
        target = decode_target(coder)
        flag = 1 if target < yes else 0
        take(coder, 0 if flag else yes, yes if flag else (1 << FREQ_BITS) - yes, target)
    else:
        put(coder, 0 if flag else yes, yes if flag else (1 << FREQ_BITS) - yes)
    chance[0] += ((65536 if flag else 0) - chance[0]) >> 3
    return flag


@strict
def code_index(decoding: bool, coder: Coder, index: int, n: int) -> int:
    """One of ``n`` alike; -1 for a damaged stream."""
    size = (1 << FREQ_BITS) // n
    if decoding:
        target = decode_target(coder)
        index = target // size
        if index >= n:
            return -1
        take(coder, index * size, size, target)
    else:
        put(coder, index * size, size)
    return index


@strict
def magnitude(significand: int, power: int) -> int:
    """significand · 2^power, at most `LIMIT`; rounded down."""
    if power >= 0:
        return LIMIT if significand and (power > 27 or significand << power > LIMIT) else significand << power
    return min(LIMIT, significand >> min(-power, 62))


@strict
def word_value(word: int, mantissa_bits: int, scale: int) -> int:
    """The integer of a 16-bit floating-point word; ``scale``: the power of two that its value is multiplied by, exponent bias included."""
    exponent = (word & 0x7FFF) >> mantissa_bits
    significand = word & ((1 << mantissa_bits) - 1)
    if exponent:
        significand |= 1 << mantissa_bits
    value = magnitude(significand, max(exponent, 1) + scale)
    return -value if word & 0x8000 else value


@strict
def lower_edge(order: int, mantissa_bits: int, scale: int) -> int:
    """Half way from the word before to the word ``order`` in order of value: -0 is 0x7FFF, +0 is 0x8000."""
    bits = order - 0x8000 if order >= 0x8000 else 0x8000 - order
    if bits == 0 or (order < 0x8000 and bits > 0x7FFF):
        return 0 if bits == 0 else -LIMIT
    exponent = bits >> mantissa_bits
    significand = bits & ((1 << mantissa_bits) - 1)
    if exponent:
        significand |= 1 << mantissa_bits
    edge = magnitude(2 * significand - 1, max(exponent, 1) + scale - 1)
    return edge if order >= 0x8000 else -edge


@strict
def share_below(edge: int, mean: int, inverse: int, cdf: I64) -> int:
    """Probability (2^-30) of a value below ``edge``; ``inverse``: 2^31 / standard deviation."""
    reach = REACH_SIGMA << 15
    at = ((edge - mean) * inverse >> 16) + reach
    if at <= 0:
        return 0
    if at >= 2 * reach:
        return 1 << CDF_BITS
    step_bits = 15 - 5
    i, part = at >> step_bits, at & ((1 << step_bits) - 1)
    below, above = i64(cdf[i]), i64(cdf[i + 1])
    return below + ((above - below) * part >> step_bits)


class Guess(NamedTuple):
    """Two normal predictions of one value, and the weight of the second (2^-16). ``…_inverse``: 2^31 / standard deviation."""

    mean: int
    inverse: int
    near_mean: int
    near_inverse: int
    weight: int


@strict
def cumulative(order: int, guess: Guess, mantissa_bits: int, scale: int, cdf: I64) -> int:
    """How much of 2^26 lies below the word ``order``, 0 to 65536."""
    if order <= 0:
        return 0
    if order >= 0x10000:
        return 1 << FREQ_BITS
    edge = lower_edge(order, mantissa_bits, scale)
    share = share_below(edge, guess.mean, guess.inverse, cdf)
    if guess.weight:
        near = share_below(edge, guess.near_mean, guess.near_inverse, cdf)
        share += (near - share) * guess.weight >> 16
    return (share * ((1 << FREQ_BITS) - 0x10000) >> CDF_BITS) + order


@strict
def code_word(decoding: bool, coder: Coder, word: int, guess: Guess, mantissa_bits: int, scale: int, cdf: I64) -> int:
    """The word coded, or found."""
    if not decoding:
        order = word ^ 0xFFFF if word & 0x8000 else word ^ 0x8000
        start = cumulative(order, guess, mantissa_bits, scale, cdf)
        put(coder, start, cumulative(order + 1, guess, mantissa_bits, scale, cdf) - start)
        return word
    target = decode_target(coder)
    low, high = 0, 0x10000
    start, end = 0, 1 << FREQ_BITS
    while high - low > 1:
        middle = (low + high) >> 1
        below = cumulative(middle, guess, mantissa_bits, scale, cdf)
        if below <= target:
            low, start = middle, below
        else:
            high, end = middle, below
    take(coder, start, end - start, target)
    return low ^ 0x8000 if low & 0x8000 else low ^ 0xFFFF


@strict
def inverse_of(variance: int) -> int:
    """2^31 / standard deviation."""
    return (1 << 31) // max(1, i64(np.sqrt(np.float64(variance))))


@strict
def held(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))


@strict
def log2_of(value: int) -> int:
    """log2 of a positive integer below 2^32 in sixteenths, to within a twelfth of an octave."""
    whole = 0
    rest = value
    while rest >= 2:
        rest >>= 1
        whole += 1
    return (whole << 4) + ((value << 4 >> whole) & 15)


@strict
def evidence(word: int, guess: Guess, mantissa_bits: int, scale: int, cdf: I64) -> int:
    """By how much (octaves, in sixteenths) the near prediction gave ``word`` a better chance than the plain one."""
    order = word ^ 0xFFFF if word & 0x8000 else word ^ 0x8000
    low = -LIMIT if order == 0 else lower_edge(order, mantissa_bits, scale)
    high = LIMIT if order == 0xFFFF else lower_edge(order + 1, mantissa_bits, scale)
    plain = share_below(high, guess.mean, guess.inverse, cdf) - share_below(low, guess.mean, guess.inverse, cdf)
    near = share_below(high, guess.near_mean, guess.near_inverse, cdf) - share_below(low, guess.near_mean, guess.near_inverse, cdf)
    return log2_of(near + 64) - log2_of(plain + 64)
