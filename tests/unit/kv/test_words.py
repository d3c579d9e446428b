"""fp16 and bf16 words: their float32 image is exact for every finite pattern, and rounding is to nearest even."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.words import image, rounded
from h2o_gate_plugin.kv_options import KvDtype

PATTERNS = np.arange(65536, dtype=np.uint32).astype(np.uint16)
EXPONENT: dict[KvDtype, int] = {"fp16": 0x7C00, "bf16": 0x7F80}
DTYPES: tuple[KvDtype, KvDtype] = ("fp16", "bf16")


def finite(dtype: KvDtype) -> npt.NDArray[np.uint16]:
    words: npt.NDArray[np.uint16] = PATTERNS[(PATTERNS & EXPONENT[dtype]) != EXPONENT[dtype]]
    return words


def expected_image(words: npt.NDArray[np.uint16], dtype: KvDtype) -> npt.NDArray[np.float32]:
    """By numpy's own fp16, and by the definition of bf16: the upper half of a float32."""
    if dtype == "fp16":
        return words.view(np.float16).astype(np.float32)
    wide: npt.NDArray[np.float32] = (words.astype(np.uint32) << 16).view(np.float32)
    return wide


def image_of(words: npt.NDArray[np.uint16], dtype: KvDtype) -> npt.NDArray[np.float32]:
    out = np.empty(words.shape, dtype=np.float32)
    image(words, dtype, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_image_of_every_finite_pattern_is_bit_exact_minus_zero_and_subnormals_included(dtype: KvDtype) -> None:
    words = finite(dtype)
    assert np.array_equal(image_of(words, dtype).view(np.uint32), expected_image(words, dtype).view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_the_image_gives_the_words_back(dtype: KvDtype) -> None:
    words = finite(dtype)
    assert np.array_equal(rounded(expected_image(words, dtype), dtype, "x"), words)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_to_nearest_and_ties_go_to_the_even_word(dtype: KvDtype) -> None:
    words = finite(dtype)
    words = words[words < 0x8000]  # rising values
    low, high = (expected_image(side, dtype).astype(np.float64) for side in (words[:-1], words[1:]))
    even = np.where(words[:-1] % 2 == 0, words[:-1], words[1:])
    middle = ((low + high) / 2).astype(np.float32)
    fits = middle.astype(np.float64) * 2 == low + high  # below the subnormals of float32 there is no middle
    assert np.array_equal(rounded(middle[fits], dtype, "x"), even[fits])
    assert np.array_equal(rounded(np.nextafter(middle, np.float32(np.inf))[fits], dtype, "x"), words[1:][fits])
    assert np.array_equal(rounded(np.nextafter(middle, np.float32(0))[fits], dtype, "x"), words[:-1][fits])


def test_strided_input_is_read() -> None:
    values = np.array([[1.0 + 2**-11, 9.0], [1.0 + 3 * 2**-11, 9.0], [65519.99, 9.0]], dtype=np.float32)[:, :1]
    assert rounded(values, "fp16", "x").view(np.float16).ravel().tolist() == [1.0, 1.0 + 2**-9, 65504.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38, 65520.0, -1e30])
def test_a_value_without_a_finite_word_is_refused_without_a_warning(bad: float, dtype: KvDtype) -> None:
    values = np.zeros((2, 3, 4), dtype=np.float32)
    values[1, 2, 3] = bad
    if dtype == "bf16" and abs(bad) < 3e38:
        assert np.isfinite(image_of(rounded(values, dtype, "x"), dtype)).all()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EngineError, match=f"layer 5: keys: expected finite values that fit {dtype}") as caught:
            rounded(values, dtype, "layer 5: keys")
    assert repr(float(np.float32(bad))) in str(caught.value)


def test_float64_is_refused() -> None:
    with pytest.raises(EngineError, match="expected float32, got float64"):
        rounded(np.zeros(3), "fp16", "x")  # type: ignore[arg-type]
