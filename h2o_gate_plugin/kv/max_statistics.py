"""Compiled statistics of codec ``kv_max``: sums of products of a sequence's rows, and the predictor that they give.

Joint normal statistics C = L D L^T (L unit lower triangular): x_i = m_i + sum over j < i of l_ij e_j + e_i, where e_j has variance d_j.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from h2o_gate_plugin.kv.max_coder import I32, I64, U8, U16, held, i64, strict

FACTOR_BITS = 20
CORRELATION_BITS = 24
STATISTICS_LIMIT = 1 << 21
SPREAD_FLOOR, SPREAD_CEILING = 1, 1 << 44
INFLATION_ONE = 1 << 16


class Predictor(NamedTuple):
    """``mean`` [n]; ``factors`` [n, n]: row j = l_ij of i > j in 2^-20; ``spread`` [n] = d; ``inflation`` [n] of d in 2^-16."""

    mean: I64
    factors: I32
    spread: I64
    inflation: I64


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
def nearest_rows(rows: I32, first: int, window: int, reference: I64) -> None:
    """Of each row from ``first`` on: the newest row at the smallest squared distance among the ``window`` before it, -1 for none."""
    for t in range(len(reference)):
        row, best, least = rows[first + t], i64(-1), i64(0)
        for earlier in range(max(0, first + t - window), first + t):
            other, distance = rows[earlier], i64(0)
            for i in range(len(row)):
                apart = i64(row[i] - other[i])
                distance += apart * apart
            if best < 0 or distance <= least:
                best, least = earlier, distance
        reference[t] = best


@strict
def add_products(rows: Rows, moments: I64, sums: I64, near_moments: I64) -> tuple[int, int]:
    """Add the segment's tokens to the sums of products, upper halves [n, n]; returns how many were added to either."""
    n_token, n = len(rows.reference), rows.words.shape[1]
    own, apart = np.empty((n_token, n), dtype=np.int32), np.empty((n_token, n), dtype=np.int32)
    n_plain, n_near = i64(0), i64(0)
    for t in range(n_token):
        if rows.copied[t]:
            continue
        row, reference = rows.first + t, rows.reference[t]
        for i in range(n):
            own[n_plain, i] = held(i64(rows.values[row, i]), STATISTICS_LIMIT)
            sums[i] += own[n_plain, i]
        n_plain += 1
        if reference >= 0:
            for i in range(n):
                apart[n_near, i] = held(i64(rows.values[row, i]) - i64(rows.values[reference, i]), STATISTICS_LIMIT)
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
            row, left = rows[t, i:], i64(rows[t, i])
            for k in range(len(out)):
                out[k] += left * i64(row[k])


@strict
def fit(moments: I64, sums: I64, count: int, prior_tokens: int, work: I64, predictor: Predictor) -> None:
    """The predictor of ``count`` tokens' moments, shrunk towards independent channels by ``prior_tokens``. ``sums`` empty: means are 0."""
    n = len(moments)
    shift = np.empty(n, dtype=np.int64)
    for i in range(n):
        predictor.mean[i] = sums[i] // count if len(sums) else 0
        variance = max(i64(1), moments[i, i] // count - predictor.mean[i] * predictor.mean[i])
        bits = i64(0)
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
        pivot = max(i64(1 << 10), work[i, i])
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
