from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_gate_plugin.report.axes import Scale, extent, tick_texts, ticks

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(numbers, max_size=8), st.booleans())
def test_an_extent_holds_every_value_and_is_never_empty(values: list[float], from_zero: bool) -> None:
    low, high = extent(values, from_zero)
    assert low < high
    assert all(low <= value <= high for value in values)
    assert not from_zero or low <= 0 <= high


@given(numbers, st.floats(1e-6, 1e9), st.integers(2, 10), st.booleans())
def test_ticks_are_few_round_and_within(low: float, width: float, most: int, whole: bool) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), 1.0) * 1e3:
        return  # beyond what floats can tell apart on an axis
    values = ticks(low, high, most, whole)
    assert len(values) <= most + 1
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in values)
    assert not whole or all(value == round(value) for value in values)


def test_ticks_of_a_known_range() -> None:
    assert ticks(0.0, 2.7, 6) == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert ticks(0.5, 4.5, 8, whole=True) == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("values", "texts"),
    [((0.0, 0.5, 1.0), ("0.0", "0.5", "1.0")), ((1000.0, 2000.0), ("1,000", "2,000")), ((-0.0, 0.05), ("0.00", "0.05")), ((), ())],
)
def test_ticks_have_the_decimals_that_their_distance_asks_for(values: tuple[float, ...], texts: tuple[str, ...]) -> None:
    assert tick_texts(values) == texts


def test_a_scale_maps_its_ends() -> None:
    scale = Scale(10.0, 20.0, 100.0, 0.0)
    assert (scale.at(10.0), scale.at(20.0), scale.at(15.0)) == (100.0, 0.0, 50.0)


def test_what_is_not_finite_does_not_stretch_an_axis() -> None:
    assert extent((math.inf, math.nan, 1.0, 3.0), False, room=0.0) == (1.0, 3.0)
