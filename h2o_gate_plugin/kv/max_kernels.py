"""Compiled loops of codec ``kv_max``. Integers only (and one correctly rounded square root): every machine gives the same bits.

Values are integers in units of 2^-16 of a channel's nominal spread; K is rotated back (RoPE undone) for prediction and forward again for
coding. Two predictions are mixed per value: ``plain``, from the mean and the channels before it in the token, and ``near``, the same about
an earlier row that resembles this one. Joint normal statistics C = L D L^T: x_i = m_i + sum over j < i of l_ij e_j + e_i, e_j of variance d_j.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import kernel
from h2o_gate_plugin.kv.max_tables import CDF_BITS, LOG2_REACH, LOG2_STEPS, PHASE_BITS, REACH_SIGMA, STEPS_PER_SIGMA, TRIG_BITS, TURN_STEPS

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

FREQ_BITS = 26
"""Every 16-bit word has at least 2^-26 of the probability: 2^16 words take 0.1 % of it."""
STATE_LOW = 1 << 31
FACTOR_BITS = 20
CORRELATION_BITS = 24
NOMINAL_BITS = 16
LIMIT = 1 << 27
"""Values and residuals are held to 2^11 nominal spreads."""
STATISTICS_LIMIT = 1 << 21
SPREAD_FLOOR, SPREAD_CEILING = 1, 1 << 44
INFLATION_ONE = 1 << 16
TOKEN_PRIOR = 12
"""Channels' worth of belief that a token is as spread out as the others."""

WHOLE, DAMAGED = range(2)


def strict(function: Any) -> Any:
    """No reordering and no contraction, although hardly a float is in sight."""
    return kernel(function, frozenset())


class Coder(NamedTuple):
    """One rANS stream. Decoding: ``state`` [1], ``at`` [1] and ``words``. Encoding: intervals ``starts``, ``sizes``, of which ``at`` [1] are used."""

    state: U64
    at: I64
    words: U32
    starts: U32
    sizes: U32


class Predictor(NamedTuple):
    """``mean`` [n], ``factors`` [n, n] with row j = l_ij of every i > j, ``spread`` [n] = d, ``inflation`` [n] in 2^-16 (kept up per token)."""

    mean: I64
    factors: I32
    spread: I64
    inflation: I64


@strict
def decode_target(coder: Coder) -> int:
    return np.int64(coder.state[0] & np.uint64((1 << FREQ_BITS) - 1))


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
    return cdf[i] + ((cdf[i + 1] - cdf[i]) * part >> step_bits)


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
    return (1 << 31) // max(1, np.int64(np.sqrt(np.float64(variance))))


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


@strict
def token_spread(run: int, n: int) -> int:
    """How spread out this token is against the others (2^-8), from ``run`` = sum of e^2 / variance (2^-8) over ``n`` channels."""
    return max(8, min(64 << 8, (run + (TOKEN_PRIOR << 8)) // (n + TOKEN_PRIOR)))


@strict
def spread_now(predictor: Predictor, i: int, token: int) -> int:
    grown = predictor.spread[i] * (predictor.inflation[i] >> 4) >> 12
    return max(SPREAD_FLOOR, min(SPREAD_CEILING, min(SPREAD_CEILING, grown) * token >> 8))


@strict
def learn(predictor: Predictor, i: int, residual: int, variance: int, sums: I64) -> int:
    """Take in e_i: move ``sums`` (the predictions of later channels, 2^-20) and the inflation; returns e^2 / variance (2^-8), at most 64."""
    row, later, narrow = predictor.factors[i, i + 1 :], sums[i + 1 :], np.int32(residual)  # a product of two 32-bit numbers is cheap
    for k in range(len(later)):
        later[k] += np.int64(row[k]) * np.int64(narrow)
    surprise = min(64 << 8, (residual * residual << 8) // variance)
    inflation = predictor.inflation[i]
    moved = inflation + (inflation * (min(surprise, 8 << 8) - 256) >> 14)
    predictor.inflation[i] = max(INFLATION_ONE >> 3, min(INFLATION_ONE << 5, moved))
    return surprise


class Rows(NamedTuple):
    """A segment of tokens of one head group and what is known of the tokens before it.

    ``words`` [n_history + n_token, n]: K channels in RoPE pairs (a, b), then V; ``values``: their integers, K rotated back. ``first``: the
    segment's first row. ``reference`` [n_token]: an earlier row or -1; ``copied`` [n_token]: 1 where K is that row's but for rounding and V
    is equal. ``cos``, ``sin`` [n_token, n_pair] in 2^-24; ``scales`` [n].
    """

    words: U16
    values: I32
    first: int
    reference: I64
    copied: U8
    cos: I64
    sin: I64
    scales: I64
    n_key: int
    n_pair: int
    mantissa_bits: int


@strict
def rotated(c: int, s: int, a: int, b: int) -> tuple[int, int]:
    return (a * c - b * s) >> TRIG_BITS, (b * c + a * s) >> TRIG_BITS


@strict
def rotated_pair(c: int, s: int, var_a: int, var_b: int, factor: int) -> tuple[int, int, int]:
    """Of u_a of variance var_a and u_b = factor u_a + another of variance var_b, rotated to x_a, x_b: the variance of x_a, the factor of
    x_b on x_a (2^-20), and the variance that is left."""
    c, s = c >> (TRIG_BITS - 12), s >> (TRIG_BITS - 12)
    factor = held(factor, 1 << 24)
    cross = held(factor * (var_a >> 6) >> (FACTOR_BITS - 6), SPREAD_CEILING)
    both = min(SPREAD_CEILING, var_b + (factor * (cross >> 6) >> (FACTOR_BITS - 6)))
    cc, ss, cs = c * c >> 12, s * s >> 12, c * s >> 12
    first = max(SPREAD_FLOOR, (cc * var_a - 2 * cs * cross + ss * both) >> 12)
    second = max(SPREAD_FLOOR, (ss * var_a + 2 * cs * cross + cc * both) >> 12)
    cross = (cs * (var_a - both) + (cc - ss) * cross) >> 12
    slope = held((cross << 12) // first, 1 << 24)
    left = second - (slope * (cross >> 6) >> 6)
    return first, slope << (FACTOR_BITS - 12), max(SPREAD_FLOOR, max(second >> 14, left))


@strict
def code_segment(
    decoding: bool, rows: Rows, plain: Predictor, near: Predictor, keys: Coder, values: Coder, copy_inflation: I64, cdf: I64, odds: I64
) -> None:
    """Code the segment's tokens, or find them; ``rows.words`` and ``rows.values`` are filled either way. K goes to one stream, V to the other."""
    n = rows.words.shape[1]
    sums = np.zeros((2, n), dtype=np.int64)
    for t in range(len(rows.reference)):
        reference = rows.reference[t]
        row = rows.first + t
        if rows.copied[t]:
            code_copied_keys(decoding, rows, t, keys, copy_inflation, cdf)
            for i in range(rows.n_key, n):
                rows.words[row, i] = rows.words[reference, i]
                rows.values[row, i] = rows.values[reference, i]
            continue
        sums[:] = 0
        runs = (np.int64(0), np.int64(0), np.int64(0))
        for pair in range(rows.n_pair):
            runs = code_pair(decoding, rows, t, 2 * pair, plain, near, keys, sums, runs, cdf, odds)
        for i in range(2 * rows.n_pair, n):
            runs = code_single(decoding, rows, t, i, plain, near, keys if i < rows.n_key else values, sums, runs, cdf, odds)


@strict
def weight_of(score: int, odds: I64) -> int:
    """Of the near prediction (2^-16), from its evidence so far in this token (octaves, 2^-8)."""
    return odds[max(0, min(2 * LOG2_REACH * LOG2_STEPS, (score >> 4) + LOG2_REACH * LOG2_STEPS))]


@strict
def code_single(
    decoding: bool,
    rows: Rows,
    t: int,
    i: int,
    plain: Predictor,
    near: Predictor,
    coder: Coder,
    sums: I64,
    runs: tuple[int, int, int],
    cdf: I64,
    odds: I64,
) -> tuple[int, int, int]:
    """``runs``: surprise of the plain and of the near prediction (2^-8), and the score of `weight_of`."""
    row, reference = rows.first + t, rows.reference[t]
    run, near_run, score = runs
    mean = held(plain.mean[i] + (sums[0, i] >> FACTOR_BITS), LIMIT)
    variance = spread_now(plain, i, token_spread(run, i))
    near_mean, near_variance, weight = mean, variance, np.int64(0)
    if reference >= 0:
        near_mean = held(rows.values[reference, i] + (sums[1, i] >> FACTOR_BITS), LIMIT)
        near_variance = spread_now(near, i, token_spread(near_run, i))
        weight = weight_of(score, odds)
    guess = Guess(mean, inverse_of(variance), near_mean, inverse_of(near_variance), weight)
    word = code_word(decoding, coder, np.int64(rows.words[row, i]), guess, rows.mantissa_bits, rows.scales[i], cdf)
    value = word_value(word, rows.mantissa_bits, rows.scales[i])
    rows.words[row, i] = word
    rows.values[row, i] = value
    run += learn(plain, i, held(value - mean, LIMIT), variance, sums[0]) * token_spread(run, i) >> 8
    if reference >= 0:
        near_run += learn(near, i, held(value - near_mean, LIMIT), near_variance, sums[1]) * token_spread(near_run, i) >> 8
        score += (evidence(word, guess, rows.mantissa_bits, rows.scales[i], cdf) << 4) - (score >> 5)
    return run, near_run, score


@strict
def code_pair(
    decoding: bool,
    rows: Rows,
    t: int,
    i: int,
    plain: Predictor,
    near: Predictor,
    coder: Coder,
    sums: I64,
    runs: tuple[int, int, int],
    cdf: I64,
    odds: I64,
) -> tuple[int, int, int]:
    """As `code_single`, for the channels i and i + 1 of K, which RoPE turns into each other; predicted unrotated, coded as they are stored."""
    row, reference = rows.first + t, rows.reference[t]
    run, near_run, score = runs
    c, s, scale, bits = rows.cos[t, i >> 1], rows.sin[t, i >> 1], rows.scales[i], rows.mantissa_bits
    token, near_token = token_spread(run, i), token_spread(near_run, i)
    ma = held(plain.mean[i] + (sums[0, i] >> FACTOR_BITS), LIMIT)
    mb = held(plain.mean[i + 1] + (sums[0, i + 1] >> FACTOR_BITS), LIMIT)
    va, vb = spread_now(plain, i, token), spread_now(plain, i + 1, token)
    mean_a, mean_b = rotated(c, s, ma, mb)
    first, slope, left = rotated_pair(c, s, va, vb, np.int64(plain.factors[i, i + 1]))
    na, nb, nva, nvb = ma, mb, va, vb
    near_a, near_b, near_first, near_slope, near_left, weight = mean_a, mean_b, first, slope, left, np.int64(0)
    if reference >= 0:
        na = held(rows.values[reference, i] + (sums[1, i] >> FACTOR_BITS), LIMIT)
        nb = held(rows.values[reference, i + 1] + (sums[1, i + 1] >> FACTOR_BITS), LIMIT)
        nva, nvb = spread_now(near, i, near_token), spread_now(near, i + 1, near_token)
        near_a, near_b = rotated(c, s, na, nb)
        near_first, near_slope, near_left = rotated_pair(c, s, nva, nvb, np.int64(near.factors[i, i + 1]))
        weight = weight_of(score, odds)
    guess = Guess(mean_a, inverse_of(first), near_a, inverse_of(near_first), weight)
    word_a = code_word(decoding, coder, np.int64(rows.words[row, i]), guess, bits, scale, cdf)
    xa = word_value(word_a, bits, scale)
    if reference >= 0:
        score += (evidence(word_a, guess, bits, scale, cdf) << 4) - (score >> 5)
        weight = weight_of(score, odds)
    given_b = held(mean_b + (slope * held(xa - mean_a, LIMIT) >> FACTOR_BITS), LIMIT)
    near_given_b = held(near_b + (near_slope * held(xa - near_a, LIMIT) >> FACTOR_BITS), LIMIT)
    guess = Guess(given_b, inverse_of(left), near_given_b, inverse_of(near_left), weight)
    word_b = code_word(decoding, coder, np.int64(rows.words[row, i + 1]), guess, bits, scale, cdf)
    xb = word_value(word_b, bits, scale)
    if reference >= 0:
        score += (evidence(word_b, guess, bits, scale, cdf) << 4) - (score >> 5)
    ua, ub = rotated(c, -s, xa, xb)
    ua, ub = held(ua, LIMIT), held(ub, LIMIT)
    rows.words[row, i], rows.words[row, i + 1] = word_a, word_b
    rows.values[row, i], rows.values[row, i + 1] = ua, ub
    run += learn(plain, i, held(ua - ma, LIMIT), va, sums[0]) * token >> 8
    mb = plain.mean[i + 1] + (sums[0, i + 1] >> FACTOR_BITS)
    run += learn(plain, i + 1, held(ub - mb, LIMIT), vb, sums[0]) * token >> 8
    if reference >= 0:
        near_run += learn(near, i, held(ua - na, LIMIT), nva, sums[1]) * near_token >> 8
        nb = rows.values[reference, i + 1] + (sums[1, i + 1] >> FACTOR_BITS)
        near_run += learn(near, i + 1, held(ub - nb, LIMIT), nvb, sums[1]) * near_token >> 8
    return run, near_run, score


@strict
def code_copied_keys(decoding: bool, rows: Rows, t: int, coder: Coder, inflation: I64, cdf: I64) -> None:
    """K of a token whose unrotated K is that of the reference but for rounding: a spread of some steps of the format."""
    row, reference, bits = rows.first + t, rows.reference[t], rows.mantissa_bits
    for i in range(0, rows.n_key):
        paired = i < 2 * rows.n_pair
        if paired and i & 1:
            continue
        c, s = np.int64(1 << TRIG_BITS), np.int64(0)
        ua, ub = np.int64(rows.values[reference, i]), np.int64(0)
        if paired:
            c, s, ub = rows.cos[t, i >> 1], rows.sin[t, i >> 1], np.int64(rows.values[reference, i + 1])
        xa, xb = rotated(c, s, ua, ub)
        largest = max(abs(xa), abs(xb))
        for j in range(2 if paired else 1):
            mean = xb if j else xa
            step = (largest >> (bits + 1)) + 1
            variance = max(1, step * step * inflation[0] >> 16)
            guess = Guess(mean, inverse_of(variance), mean, np.int64(1), np.int64(0))
            word = code_word(decoding, coder, np.int64(rows.words[row, i + j]), guess, bits, rows.scales[i + j], cdf)
            rows.words[row, i + j] = word
            value = word_value(word, bits, rows.scales[i + j])
            surprise = min(8 << 8, (held(value - mean, LIMIT >> 1) ** 2 << 8) // variance)
            inflation[0] = max(1 << 10, min(1 << 24, inflation[0] + (inflation[0] * (surprise - 256) >> 15)))
            if j:
                xb = value
            else:
                xa = value
        ua, ub = rotated(c, -s, xa, xb)
        rows.values[row, i] = held(ua, LIMIT)
        if paired:
            rows.values[row, i + 1] = held(ub, LIMIT)


@strict
def code_references(decoding: bool, first: int, window: int, reference: I64, copied: U8, chance: I64, coder: Coder) -> int:
    """Per token: whether it is copied, and its earlier row, at most ``window`` rows back. Returns WHOLE or DAMAGED."""
    for t in range(len(reference)):
        n = min(first + t, window)
        if n == 0:
            reference[t], copied[t] = -1, 0
            continue
        copied[t] = code_flag(decoding, coder, np.int64(copied[t]), chance)
        back = code_index(decoding, coder, first + t - 1 - reference[t], n)
        if back < 0:
            return DAMAGED
        reference[t] = first + t - 1 - back
    return WHOLE


@strict
def add_products(rows: Rows, moments: I64, sums: I64, near_moments: I64) -> tuple[int, int]:
    """Add the segment's tokens to the sums of products, upper halves [n, n]; returns how many were added to either."""
    n_token, n = len(rows.reference), rows.words.shape[1]
    own, apart = np.empty((n_token, n), dtype=np.int32), np.empty((n_token, n), dtype=np.int32)
    n_plain, n_near = np.int64(0), np.int64(0)
    for t in range(n_token):
        if rows.copied[t]:
            continue
        row, reference = rows.first + t, rows.reference[t]
        for i in range(n):
            own[n_plain, i] = held(np.int64(rows.values[row, i]), STATISTICS_LIMIT)
            sums[i] += own[n_plain, i]
        n_plain += 1
        if reference >= 0:
            for i in range(n):
                apart[n_near, i] = held(np.int64(rows.values[row, i]) - np.int64(rows.values[reference, i]), STATISTICS_LIMIT)
            n_near += 1
    add_outer(own[:n_plain], moments)
    add_outer(apart[:n_near], near_moments)
    return n_plain, n_near


@strict
def add_outer(rows: I32, moments: I64) -> None:
    """Row by row of ``moments``, so that it stays near while all ``rows`` are added."""
    n = rows.shape[1]
    for i in range(n):
        out = moments[i, i:]  # loops from 0 use vector lanes
        for t in range(len(rows)):
            row, left = rows[t, i:], np.int64(rows[t, i])
            for k in range(len(out)):
                out[k] += left * np.int64(row[k])


@strict
def fit(moments: I64, sums: I64, count: int, prior_tokens: int, work: I64, predictor: Predictor) -> None:
    """The predictor of ``count`` tokens' moments, shrunk towards independent channels by ``prior_tokens``. ``sums`` empty: means are 0."""
    n = len(moments)
    shift = np.empty(n, dtype=np.int64)
    for i in range(n):
        predictor.mean[i] = sums[i] // count if len(sums) else 0
        variance = max(np.int64(1), moments[i, i] // count - predictor.mean[i] * predictor.mean[i])
        bits = np.int64(0)
        while variance >> bits:
            bits += 1
        shift[i] = (bits - CORRELATION_BITS + 1) >> 1
    for i in range(n):
        for k in range(i, n):
            scaled = moments[i, k] // count - predictor.mean[i] * predictor.mean[k]
            down = shift[i] + shift[k]
            scaled = scaled >> down if down >= 0 else scaled << -down
            work[i, k] = scaled * count // (count + prior_tokens) if k > i else scaled + (scaled >> 10) + 256
    for i in range(n):
        pivot = max(np.int64(1 << 10), work[i, i])
        for k in range(i + 1, n):
            factor = (work[i, k] << FACTOR_BITS) // pivot
            row, above = work[k, k:], work[i, k:]
            for m in range(len(row)):
                row[m] -= factor * above[m] >> FACTOR_BITS
            move = shift[k] - shift[i]
            scaled = factor << move if move >= 0 else factor >> -move
            predictor.factors[i, k] = held(scaled, (1 << 30) - 1)
        down = 2 * shift[i]
        predictor.spread[i] = min(SPREAD_CEILING, max(SPREAD_FLOOR, pivot << down if down >= 0 else pivot >> -down))


@strict
def take_values(rows: Rows) -> None:
    """Fill ``rows.values`` of the segment from its words: what coding it will make of them."""
    for t in range(len(rows.reference)):
        row = rows.first + t
        for i in range(rows.words.shape[1]):
            rows.values[row, i] = word_value(np.int64(rows.words[row, i]), rows.mantissa_bits, rows.scales[i])
        for pair in range(rows.n_pair):
            i = 2 * pair
            a, b = np.int64(rows.values[row, i]), np.int64(rows.values[row, i + 1])
            ua, ub = rotated(rows.cos[t, pair], -rows.sin[t, pair], a, b)
            rows.values[row, i], rows.values[row, i + 1] = held(ua, LIMIT), held(ub, LIMIT)


@strict
def turns(first_position: int, steps: I64, table_cos: I64, table_sin: I64, cos: I64, sin: I64) -> None:
    """Cosine and sine of RoPE's angle at each position [n_token, n_pair], by linear interpolation."""
    for t in range(len(cos)):
        for p in range(len(steps)):
            phase = (first_position + t) * steps[p] & ((1 << PHASE_BITS) - 1)
            at, part = phase >> (PHASE_BITS - 12), (phase >> (PHASE_BITS - 12 - 16)) & 0xFFFF
            cos[t, p] = table_cos[at] + ((table_cos[at + 1] - table_cos[at]) * part >> 16)
            sin[t, p] = table_sin[at] + ((table_sin[at + 1] - table_sin[at]) * part >> 16)


assert TURN_STEPS == 4096 and STEPS_PER_SIGMA == 32  # noqa: S101  # the shifts above say so
