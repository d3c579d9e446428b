"""Where values lie on a drawing: round ticks and linear scales."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` lie at ``at_low`` to ``at_high`` of the drawing."""

    low: float
    high: float
    at_low: float
    at_high: float

    def at(self, value: float) -> float:
        return self.at_low + (value - self.low) / (self.high - self.low) * (self.at_high - self.at_low)


def extent(values: Iterable[float], from_zero: bool, room: float = 0.08) -> tuple[float, float]:
    """The least and the largest with some room; never empty. From zero there is none below it."""
    values = tuple(value for value in values if math.isfinite(value)) or (0.0,)
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return low - 1.0, high + 1.0
    return (low if from_zero and low == 0 else low - room * (high - low)), high + room * (high - low)


def ticks(low: float, high: float, most: int, whole: bool = False) -> tuple[float, ...]:
    """At most ``most`` round numbers within [low, high], 1, 2 or 5 times a power of ten apart."""
    power = math.floor(math.log10((high - low) / most))
    steps = (factor * 10.0**exponent for exponent in count(max(power, 0) if whole else power) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(number * step for number in range(first, last + 1))


def tick_texts(values: tuple[float, ...]) -> tuple[str, ...]:
    """All with the decimals that their distance asks for."""
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) if values else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return tuple(f"{value + 0.0:,.{decimals}f}" for value in values)
