"""Integer tables of codec ``kv_max``: part of its format, so they are computed exactly and are the same bits on every machine.

Python integers, and `decimal`'s ``exp`` and ``ln``, whose results are correctly rounded by definition, stand where libm would differ.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import cache, lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

CDF_BITS = 30
STEPS_PER_SIGMA = 32
REACH_SIGMA = 16
"""The distribution function is tabulated over plus and minus so many standard deviations."""

LOG2_STEPS = 16
LOG2_REACH = 12
"""Odds are tabulated over 2^-12 to 2^12, in sixteenths of an octave."""

TURN_STEPS = 4096
TRIG_BITS = 24
PHASE_BITS = 48

_PRECISION = 320
_ONE = 1 << _PRECISION
_DECIMAL = Context(prec=60)
_SHARES = ((918, 5), (80, 9), (2, 20))
"""Thousandths, and the standard deviation in fifths: a normal bulk with wider tails."""


@cache
def cdf_table() -> I64:
    """Distribution function of the residuals at -16, -16 + 1/32, … 16 standard deviations, in 2^-30; rising, 0 and 2^30 at the ends."""
    half = REACH_SIGMA * STEPS_PER_SIGMA
    upper = [0] * (half + 1)  # the part above 1/2
    for share, fifths in _SHARES:
        for i, area in enumerate(_normal_areas(half, fifths)):
            upper[i] += share * area
    rounded = [area * (1 << CDF_BITS) // (1000 * _ONE) for area in upper]
    rounded[-1] = 1 << (CDF_BITS - 1)
    middle = 1 << (CDF_BITS - 1)
    return np.array([middle - area for area in reversed(rounded[1:])] + [middle + area for area in rounded], dtype=np.int64)


@cache
def odds_table() -> I64:
    """2^s / (1 + 2^s) in 2^-16 for s = -12, -12 + 1/16, … 12."""
    return np.array([65536 * _power_of_two(i) // (_ONE + _power_of_two(i)) for i in _octave_steps()], dtype=np.int64)


@cache
def turn_table() -> tuple[I64, I64]:
    """Cosine and sine of 0, 1/4096, … 1 turn in 2^-24, the first one again at the end."""
    pi = _pi()
    step = 2 * pi // TURN_STEPS
    cos_step, sin_step = _cos_sin(step)
    cos, sin = _ONE, 0
    rows: list[tuple[int, int]] = []
    for _ in range(TURN_STEPS):
        rows.append((cos, sin))
        cos, sin = (cos * cos_step - sin * sin_step) >> _PRECISION, (sin * cos_step + cos * sin_step) >> _PRECISION
    rows.append(rows[0])
    scaled = np.array([[_rounded(cos), _rounded(sin)] for cos, sin in rows], dtype=np.int64)
    return scaled[:, 0].copy(), scaled[:, 1].copy()


@lru_cache(maxsize=16)
def phase_steps(theta: float, head_dim: int) -> I64:
    """Of each of the ``head_dim / 2`` RoPE pairs: turns a token in 2^-48 (Su et al. 2021, section 3.4.3: theta^(-2i/d) radians)."""
    half = head_dim // 2
    log_theta = _DECIMAL.ln(Decimal(theta))
    turn = Decimal(2 * _pi()) / Decimal(_ONE)
    steps = []
    for i in range(half):
        radians = _DECIMAL.exp(_DECIMAL.divide(_DECIMAL.multiply(log_theta, Decimal(-i)), Decimal(half)))
        steps.append(int(_DECIMAL.divide(_DECIMAL.multiply(radians, Decimal(1 << PHASE_BITS)), turn)) % (1 << PHASE_BITS))
    return np.array(steps, dtype=np.int64)


def _normal_areas(half: int, fifths: int) -> list[int]:
    """Area of the normal density of standard deviation ``fifths / 5`` from 0 to i / 32, i = 0 … half, in 2^-320.

    With u = 5 i / (32 fifths): exp(-u^2 / 2) / sqrt(2 pi) times the sum over k of u^(2k + 1) / (1 · 3 · … (2k + 1)).
    """
    root = isqrt(2 * _pi() << _PRECISION)
    step = 5 * _ONE // (STEPS_PER_SIGMA * fifths)
    areas = [0]
    falling, ratio = _exp_small(-(step * step >> (_PRECISION + 1))), _exp_small(-(step * step >> _PRECISION))
    density = falling  # exp(-u^2 / 2): its exponent grows by (2 i + 1) step^2 / 2
    for i in range(1, half + 1):
        u = step * i
        square = u * u >> _PRECISION
        term = total = u
        k = 1
        while term > 0:
            k += 2
            term = (term * square >> _PRECISION) // k
            total += term
        areas.append((density * total >> _PRECISION) * _ONE // root)
        falling = falling * ratio >> _PRECISION
        density = density * falling >> _PRECISION
    return areas


def _exp_small(x: int) -> int:
    """e^x for a small |x|, both in 2^-320."""
    term = total = _ONE
    k = 0
    while term:
        k += 1
        term = _towards_zero(term * x, _ONE * k)
        total += term
    return total


def _cos_sin(angle: int) -> tuple[int, int]:
    cos = sin = 0
    term, k = _ONE, 0
    while term:
        if k % 2 == 0:
            cos += term if k % 4 == 0 else -term
        else:
            sin += term if k % 4 == 1 else -term
        k += 1
        term = term * angle // (_ONE * k)
    return cos, sin


@cache
def _pi() -> int:
    """Machin 1706: pi = 16 arctan(1/5) - 4 arctan(1/239), in 2^-320."""
    guard = 32
    return (16 * _arctan_inverse(5, guard) - 4 * _arctan_inverse(239, guard)) >> guard


def _arctan_inverse(x: int, guard: int) -> int:
    power = total = (_ONE << guard) // x
    k = 1
    while power:
        power //= x * x
        k += 2
        total += power // k if k % 4 == 1 else -(power // k)
    return total


def _octave_steps() -> range:
    return range(-LOG2_REACH * LOG2_STEPS, LOG2_REACH * LOG2_STEPS + 1)


def _power_of_two(sixteenths: int) -> int:
    """2^(sixteenths / 16) in 2^-320: four square roots of two to the power."""
    value = _ONE << 1
    for _ in range(4):
        value = isqrt(value << _PRECISION)
    power = _ONE
    for _ in range(abs(sixteenths)):
        power = power * value >> _PRECISION
    return power if sixteenths >= 0 else (_ONE << _PRECISION) // power


def _rounded(value: int) -> int:
    return (value + (1 << (_PRECISION - TRIG_BITS - 1))) >> (_PRECISION - TRIG_BITS)


def _towards_zero(numerator: int, denominator: int) -> int:
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)
