"""Compiled loops of codec ``kv_max``: the tokens of a segment, coded or found.

Values are integers in units of 2^-16 of a channel's nominal spread; K is rotated back (RoPE undone) for prediction, and forward again for
coding. Two predictions are mixed per value: ``plain``, from the mean and the channels before it in the token, and ``near``, the same about
an earlier row that resembles this one.
"""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.kv.max_coder import (
    I64,
    LIMIT,
    U8,
    Coder,
    Guess,
    code_flag,
    code_index,
    code_word,
    evidence,
    held,
    i64,
    inverse_of,
    strict,
    word_value,
)
from h2o_gate_plugin.kv.max_statistics import FACTOR_BITS, INFLATION_ONE, SPREAD_CEILING, SPREAD_FLOOR, Predictor, Rows
from h2o_gate_plugin.kv.max_tables import LOG2_REACH, LOG2_STEPS, PHASE_BITS, TRIG_BITS

NOMINAL_BITS = 16
TOKEN_PRIOR = 6
"""Channels' worth of belief that a token is as spread out as the others."""

WHOLE, DAMAGED = range(2)


@strict
def token_spread(run: int, n: int) -> int:
    """How spread out this token is against the others (2^-8), from ``run`` = sum of e^2 / variance (2^-8) over ``n`` channels."""
    return max(8, min(64 << 8, (run + (TOKEN_PRIOR << 8)) // (n + TOKEN_PRIOR)))


@strict
def spread_now(predictor: Predictor, i: int, token: int) -> int:
    grown = i64(predictor.spread[i]) * (i64(predictor.inflation[i]) >> 4) >> 12
    return max(SPREAD_FLOOR, min(SPREAD_CEILING, min(SPREAD_CEILING, grown) * token >> 8))


@strict
def learn(predictor: Predictor, i: int, residual: int, variance: int, sums: I64) -> int:
    """Take in e_i: move ``sums`` (2^-20) that later channels are predicted by, and the inflation; returns e^2 / variance in 2^-8."""
    row, later, narrow = predictor.factors[i, i + 1 :], sums[i + 1 :], np.int32(residual)  # a product of two 32-bit numbers is cheap
    for k in range(len(later)):
        later[k] += i64(row[k]) * i64(narrow)
    surprise = min(64 << 8, (residual * residual << 8) // variance)
    inflation = predictor.inflation[i]
    moved = inflation + (inflation * (min(surprise, 8 << 8) - 256) >> 14)
    predictor.inflation[i] = max(INFLATION_ONE >> 3, min(INFLATION_ONE << 5, moved))
    return surprise


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
    """Code the segment's tokens, or find them: K in one stream, V in the other. ``rows.words`` and ``.values`` are filled either way."""
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
        runs = (i64(0), i64(0), i64(0))
        for pair in range(rows.n_pair):
            runs = code_pair(decoding, rows, t, 2 * pair, plain, near, keys, sums, runs, cdf, odds)
        for i in range(2 * rows.n_pair, n):
            runs = code_single(decoding, rows, t, i, plain, near, keys if i < rows.n_key else values, sums, runs, cdf, odds)


@strict
def weight_of(score: int, odds: I64) -> int:
    """Of the near prediction (2^-16), from its evidence so far in this token (octaves, 2^-8)."""
    return i64(odds[max(0, min(2 * LOG2_REACH * LOG2_STEPS, (score >> 4) + LOG2_REACH * LOG2_STEPS))])


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
    near_mean, near_variance, weight = mean, variance, i64(0)
    if reference >= 0:
        near_mean = held(rows.values[reference, i] + (sums[1, i] >> FACTOR_BITS), LIMIT)
        near_variance = spread_now(near, i, token_spread(near_run, i))
        weight = weight_of(score, odds)
    guess = Guess(mean, inverse_of(variance), near_mean, inverse_of(near_variance), weight)
    word = code_word(decoding, coder, i64(rows.words[row, i]), guess, rows.mantissa_bits, rows.scales[i], cdf)
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
    """As `code_single`, for channels i and i + 1 of K, which RoPE turns into each other: predicted unrotated, coded as they are stored."""
    row, reference = rows.first + t, rows.reference[t]
    run, near_run, score = runs
    c, s, scale, bits = rows.cos[t, i >> 1], rows.sin[t, i >> 1], rows.scales[i], rows.mantissa_bits
    token, near_token = token_spread(run, i), token_spread(near_run, i)
    ma = held(plain.mean[i] + (sums[0, i] >> FACTOR_BITS), LIMIT)
    mb = held(plain.mean[i + 1] + (sums[0, i + 1] >> FACTOR_BITS), LIMIT)
    va, vb = spread_now(plain, i, token), spread_now(plain, i + 1, token)
    mean_a, mean_b = rotated(c, s, ma, mb)
    first, slope, left = rotated_pair(c, s, va, vb, i64(plain.factors[i, i + 1]))
    na, nb, nva, nvb = ma, mb, va, vb
    near_a, near_b, near_first, near_slope, near_left, weight = mean_a, mean_b, first, slope, left, i64(0)
    if reference >= 0:
        na = held(rows.values[reference, i] + (sums[1, i] >> FACTOR_BITS), LIMIT)
        nb = held(rows.values[reference, i + 1] + (sums[1, i + 1] >> FACTOR_BITS), LIMIT)
        nva, nvb = spread_now(near, i, near_token), spread_now(near, i + 1, near_token)
        near_a, near_b = rotated(c, s, na, nb)
        near_first, near_slope, near_left = rotated_pair(c, s, nva, nvb, i64(near.factors[i, i + 1]))
        weight = weight_of(score, odds)
    guess = Guess(mean_a, inverse_of(first), near_a, inverse_of(near_first), weight)
    word_a = code_word(decoding, coder, i64(rows.words[row, i]), guess, bits, scale, cdf)
    xa = word_value(word_a, bits, scale)
    if reference >= 0:
        score += (evidence(word_a, guess, bits, scale, cdf) << 4) - (score >> 5)
        weight = weight_of(score, odds)
    given_b = held(mean_b + (slope * held(xa - mean_a, LIMIT) >> FACTOR_BITS), LIMIT)
    near_given_b = held(near_b + (near_slope * held(xa - near_a, LIMIT) >> FACTOR_BITS), LIMIT)
    guess = Guess(given_b, inverse_of(left), near_given_b, inverse_of(near_left), weight)
    word_b = code_word(decoding, coder, i64(rows.words[row, i + 1]), guess, bits, scale, cdf)
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
    for i in range(rows.n_key):
        paired = i < 2 * rows.n_pair
        if paired and i & 1:
            continue
        c, s = i64(1 << TRIG_BITS), i64(0)
        ua, ub = i64(rows.values[reference, i]), i64(0)
        if paired:
            c, s, ub = rows.cos[t, i >> 1], rows.sin[t, i >> 1], i64(rows.values[reference, i + 1])
        xa, xb = rotated(c, s, ua, ub)
        largest = max(abs(xa), abs(xb))
        for j in range(2 if paired else 1):
            mean = xb if j else xa
            step = (largest >> (bits + 1)) + 1
            variance = max(1, step * step * inflation[0] >> 16)
            guess = Guess(mean, inverse_of(variance), mean, i64(1), i64(0))
            word = code_word(decoding, coder, i64(rows.words[row, i + j]), guess, bits, rows.scales[i + j], cdf)
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
        copied[t] = code_flag(decoding, coder, i64(copied[t]), chance)
        back = code_index(decoding, coder, first + t - 1 - reference[t], n)
        if back < 0:
            return DAMAGED
        reference[t] = first + t - 1 - back
    return WHOLE


@strict
def take_values(rows: Rows) -> None:
    """Fill ``rows.values`` of the segment from its words: what coding it will make of them."""
    for t in range(len(rows.reference)):
        row = rows.first + t
        for i in range(rows.words.shape[1]):
            rows.values[row, i] = word_value(i64(rows.words[row, i]), rows.mantissa_bits, rows.scales[i])
        for pair in range(rows.n_pair):
            i = 2 * pair
            a, b = i64(rows.values[row, i]), i64(rows.values[row, i + 1])
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
