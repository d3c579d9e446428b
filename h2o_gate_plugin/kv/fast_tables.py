"""The static rANS tables of ``kv_fast``: one per context, of a Gaussian mixture cut at the edges of fp16's upper bits.

They are part of the format, so every number here comes from integer arithmetic: the same bits on every machine. A word's upper
bits E are its exponent and two mantissa bits; a symbol is E relative to the whole octave of the expected deviation, with the sign
in bit 7. A context is (quarter of the octave, 4) x (bin of |mean| / deviation, 25).
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]

SLOT_BITS = 10
SLOTS = 1 << SLOT_BITS
ESCAPE = 127
"""The symbol of a word that has none; its upper bits follow apart."""
ESCAPED = np.uint32(1 << 31)
"""Marks the code of a symbol that is written as an escape."""
WINDOW = 64
"""The symbol of a magnitude in [1, 1.25) octave starts; symbols go from 2^-16 to 2^15.5 of it."""
MEAN_BINS = 25
"""Quarters of a deviation up to 3, whole ones up to 16."""
CONTEXTS = 4 * MEAN_BINS
CERTAIN = CONTEXTS
"""The table of channels that only fill a row up to whole lanes: symbol 0, no bits."""
CLASSES = 8
"""Residual variances 2^1, 2^0 … 2^-6 of a row, relative to its channels'."""
WEIGHTS = 4

_ONE = 20  # fraction bits of a coordinate
_CDF_ONE = 40
_GRID = 64  # grid points of the distribution function per deviation
_MIXTURE = ((918, 1, 1), (80, 5, 9), (2, 1, 4))
"""(per mille, 1 / deviation as a fraction) of each Gaussian."""


class Tables(NamedTuple):
    """``slots`` u32 [CONTEXTS + 1, SLOTS]: frequency << 20 | symbol << 12 | slot - start.

    ``codes`` u32 [CONTEXTS + 1, 256]: start << 16 | frequency; for a symbol without slots the escape's, with ESCAPED.
    ``reciprocals`` u64 [SLOTS + 1]: ceil(2^43 / frequency). ``roots``, ``inverse_roots`` f32 [4]: 2^(q/4), 2^(-q/4).
    ``steps`` i64 [CLASSES, WEIGHTS]: quarter octaves that a row's class adds to a channel's deviation.
    """

    slots: U32
    codes: U32
    reciprocals: U64
    roots: F32
    inverse_roots: F32
    steps: I64


@cache
def tables() -> Tables:
    """Built once per process (some milliseconds)."""
    codes = np.zeros((CONTEXTS + 1, 256), dtype=np.uint32)
    slots = np.empty((CONTEXTS + 1, SLOTS), dtype=np.uint32)
    for context, frequencies in enumerate(_frequencies()):
        starts = np.cumsum(frequencies) - frequencies
        codes[context] = starts << 16 | frequencies
        codes[context, frequencies == 0] = codes[context, ESCAPE]
        codes[context, (frequencies == 0) | (np.arange(256) == ESCAPE)] |= ESCAPED
        symbols = np.repeat(np.arange(256), frequencies)
        slots[context] = frequencies[symbols] << 20 | symbols << 12 | np.arange(SLOTS) - starts[symbols]
    reciprocals = np.array([0] + [-(-(1 << (32 + SLOT_BITS)) // frequency) for frequency in range(1, SLOTS + 1)], dtype=np.uint64)
    quarter = [_root(q) for q in range(4)]
    roots = np.array([float(Fraction(root, 1 << 60)) for root in quarter], dtype=np.float32)
    inverse_roots = np.array([float(Fraction(1 << 60, root)) for root in quarter], dtype=np.float32)
    return Tables(slots, codes, reciprocals, roots, inverse_roots, _steps())


def _frequencies() -> I64:
    """Slots of each symbol: i64 [CONTEXTS + 1, 256], rows sum to SLOTS."""
    mass, whole = _masses() >> 12, 4000 << (_CDF_ONE - 12)  # products with SLOTS fit
    frequencies = (mass * SLOTS + whole // 2) // whole
    rest = whole - np.where(frequencies > 0, mass, 0).sum(axis=1)
    frequencies[:, ESCAPE] = np.maximum(1, (rest * SLOTS + whole // 2) // whole)
    largest = frequencies.argmax(axis=1)
    frequencies[np.arange(CONTEXTS), largest] += SLOTS - frequencies.sum(axis=1)
    certain = np.zeros((1, 256), dtype=np.int64)
    certain[0, 0] = SLOTS
    return np.concatenate([frequencies, certain])


def _masses() -> I64:
    """Probability of each symbol but the escape, summed over four means per bin, in 1 / 4000 of 2^-40: i64 [CONTEXTS, 256]."""
    cdf = _cdf()
    k = np.arange(129, dtype=np.int64)
    edge = ((4 + (k & 3)) << (k >> 2)) << 2  # (1 + m/4) * 2^octave, 2^-20 at octave -16
    masses = np.zeros((4, MEAN_BINS, 256), dtype=np.int64)
    for q in range(4):
        scaled = (edge * (_inverse_root(q) >> 36)) >> 24  # < 2^36 * 2^24
        for mean_bin in range(MEAN_BINS):
            low, width = (mean_bin * 4, 4) if mean_bin < 12 else ((mean_bin - 9) * 16, 16)  # sixteenths
            for part in range(4):
                mean = ((low * 2 + width // 4 * (2 * part + 1)) << _ONE) >> 5
                for weight, over, under in _MIXTURE:
                    above = _interpolated(cdf, (scaled - mean) * over // under)
                    below = _interpolated(cdf, (-scaled - mean) * over // under)
                    masses[q, mean_bin, :127] += weight * (above[1:128] - above[:127])
                    masses[q, mean_bin, 128:255] += weight * (below[:127] - below[1:128])
    return masses.reshape(CONTEXTS, 256)


def _interpolated(cdf: I64, x: I64) -> I64:
    """The distribution function at ``x`` (2^-20), linear between grid points."""
    x = np.clip(x + (8 << _ONE), 0, (16 << _ONE) - 1)
    step = _ONE - 6
    at, part = x >> step, x & ((1 << step) - 1)
    between: I64 = cdf[at] + ((cdf[at + 1] - cdf[at]) * part >> step)
    return between


def _cdf() -> I64:
    """The normal distribution function from -8 to 8 in steps of 1/64, 2^40 = 1: i64 [1025].

    Simpson's rule over a density that a recurrence gives: exp(-(x + h)^2 / 2) = exp(-x^2 / 2) * exp(-h^2 / 2) * exp(-h x).
    """
    one = 1 << 120
    half = Fraction(1, 2 * _GRID)
    density, ratio, shrink = one, _exp_minus(half * half / 2, one), _exp_minus(half * half, one)
    densities = []
    for _ in range(8 * 2 * _GRID + 1):  # half steps from 0 to 8
        densities.append(density)
        density, ratio = density * ratio // one, ratio * shrink // one
    sums = [0]
    for i in range(0, 8 * 2 * _GRID, 2):
        sums.append(sums[-1] + densities[i] + 4 * densities[i + 1] + densities[i + 2])
    half_mass = [(part << (_CDF_ONE - 1)) // sums[-1] for part in sums]
    middle = 1 << (_CDF_ONE - 1)
    return np.array([middle - part for part in half_mass[:0:-1]] + [middle + part for part in half_mass], dtype=np.int64)


def _exp_minus(x: Fraction, one: int) -> int:
    """exp(-x) of a small positive x, ``one`` = 1, by its series."""
    term, total, n = one, 0, 0
    while term:
        total += term if n % 2 == 0 else -term
        n += 1
        term = term * x.numerator // (x.denominator * n)
    return total


def _root(q: int) -> int:
    """2^(q/4), 2^60 = 1, rounded down."""
    return isqrt(isqrt(1 << (240 + q)))


def _inverse_root(q: int) -> int:
    return (1 << 120) // _root(q)


def _steps() -> I64:
    """The nearest quarter octave of sqrt(1 - w^2 (1 - S^2)), w in thirds, S^2 = 2^(1 - class): i64 [CLASSES, WEIGHTS]."""
    steps = np.zeros((CLASSES, WEIGHTS), dtype=np.int64)
    for row_class in range(CLASSES):
        for thirds in range(WEIGHTS):
            share = 1 - Fraction(thirds, 3) ** 2 * (1 - Fraction(2, 1 << row_class))  # of the variance
            steps[row_class, thirds] = next(d for d in range(-20, 20) if share**4 < Fraction(2) ** (2 * d + 1))
    return steps
