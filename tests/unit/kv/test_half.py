"""fp16 words and their float32 image are exact for every finite pattern."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.half import check_subnormals, half_words, write_image

PATTERNS = np.arange(65536, dtype=np.uint32).astype(np.uint16)
FINITE = PATTERNS[(PATTERNS & 0x7C00) != 0x7C00]


def test_the_image_of_every_finite_pattern_is_bit_exact_minus_zero_and_subnormals_included() -> None:
    image = np.empty(FINITE.shape, dtype=np.float32)
    write_image(FINITE, image)
    assert np.array_equal(image.view(np.uint32), FINITE.view(np.float16).astype(np.float32).view(np.uint32))
    check_subnormals()


def test_rounding_to_words_and_back_is_the_identity_on_fp16_values() -> None:
    assert np.array_equal(half_words(FINITE.view(np.float16).astype(np.float32), "x"), FINITE)


def test_rounding_is_to_nearest_even_and_reads_strided_input() -> None:
    values = np.array([[1.0 + 2**-11, 9.0], [1.0 + 3 * 2**-11, 9.0], [65519.99, 9.0]], dtype=np.float32)[:, :1]
    assert half_words(values, "x").view(np.float16).ravel().tolist() == [1.0, 1.0 + 2**-9, 65504.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_a_value_without_a_finite_fp16_is_refused_without_a_warning(bad: float) -> None:
    values = np.zeros((2, 3, 4), dtype=np.float32)
    values[1, 2, 3] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EngineError, match="layer 5: keys: expected finite values") as caught:
            half_words(values, "layer 5: keys")
    assert repr(float(np.float32(bad))) in str(caught.value)


def test_many_large_finite_values_are_taken() -> None:
    values = np.full((300, 2, 64), -65504.0, dtype=np.float32)
    assert (half_words(values, "x") == 0xFBFF).all()


def test_float64_is_refused() -> None:
    with pytest.raises(EngineError, match="expected float32, got float64"):
        half_words(np.zeros(3), "x")  # type: ignore[arg-type]
