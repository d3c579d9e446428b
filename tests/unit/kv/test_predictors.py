"""The byte predictors: their arithmetic by hand, their inverses, and their names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.planes import U8, bitshuffle, bitunshuffle, join_planes, split_planes
from h2o_gate_plugin.kv.predictors import predictor_by_mode, predictors_by_name
from h2o_gate_plugin.kv_options import K_PREDICTORS, V_PREDICTORS

SHAPES = st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(1, 5))

TOKENS = np.array([[[10, 13, 7]], [[11, 12, 9]], [[8, 12, 250]]], dtype=np.uint8)  # [3 tokens, 1 head, 3 channels]
BY_HAND = {
    "raw": [[10, 13, 7], [11, 12, 9], [8, 12, 250]],
    "delta_seq": [[10, 13, 7], [1, 255, 2], [253, 0, 241]],
    "xor_seq": [[10, 13, 7], [10 ^ 11, 13 ^ 12, 7 ^ 9], [11 ^ 8, 0, 9 ^ 250]],
    "pair_delta": [[10, 3, 7], [11, 1, 9], [8, 4, 250]],
    "pair_delta_delta_seq": [[10, 3, 7], [1, 254, 2], [253, 3, 241]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_residuals_are_the_contract_s_arithmetic_modulo_256(name: str) -> None:
    (predictor,) = predictors_by_name([name], "test")
    assert predictor.forward(TOKENS, 3)[:, 0].tolist() == BY_HAND[name]


def test_every_block_is_predicted_from_its_own_first_token() -> None:
    (delta,) = predictors_by_name(["delta_seq"], "test")
    residuals = delta.forward(TOKENS, 2)[:, 0].tolist()
    assert residuals == [[10, 13, 7], [1, 255, 2], [8, 12, 250]]


@pytest.mark.parametrize("name", K_PREDICTORS)
@settings(max_examples=25)
@given(plane=arrays(np.uint8, SHAPES), block_tokens=st.integers(1, 10))
def test_inverse_restores_every_block(name: str, plane: U8, block_tokens: int) -> None:
    (predictor,) = predictors_by_name([name], "test")
    before = plane.copy()
    residuals = predictor.forward(plane, block_tokens)
    blocks = [predictor.inverse(residuals[start : start + block_tokens]) for start in range(0, len(plane), block_tokens)]
    assert np.array_equal(np.concatenate([*blocks, plane[:0]]), before)
    assert np.array_equal(plane, before), "forward must not write into its input"


def test_predictor_names_are_those_of_the_bench_config_and_modes_are_stable() -> None:
    assert set(V_PREDICTORS) < set(K_PREDICTORS)
    assert {predictor.name: predictor.mode for predictor in predictors_by_name(K_PREDICTORS, "test")} == {
        "raw": 0,
        "delta_seq": 1,
        "xor_seq": 2,
        "pair_delta": 3,
        "pair_delta_delta_seq": 4,
    }
    assert [predictor_by_mode(mode, "test").mode for mode in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("names", "said"), [(["delta_sq"], "did you mean 'delta_seq'"), ([], "one or more"), (["raw", "raw"], "different")]
)
def test_unknown_repeated_or_no_predictors_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(CodecError, match=said):
        predictors_by_name(names, "test")


def test_an_unknown_mode_byte_is_refused() -> None:
    with pytest.raises(CodecError, match="expected 0 to 4, got 5"):
        predictor_by_mode(5, "test")


@settings(max_examples=30)
@given(tensor=arrays(np.uint16, SHAPES))
def test_planes_join_to_the_tensor_they_were_split_from(tensor: U8) -> None:
    high, low = split_planes(tensor.astype("<u2"))
    assert np.array_equal(high, tensor >> 8)
    assert np.array_equal(low, tensor & 0xFF)
    assert np.array_equal(join_planes(high, low), tensor)


def test_bitshuffle_puts_the_highest_bits_of_all_bytes_first() -> None:
    payload = np.array([0x80, 0x80, 0x80, 0, 0, 0, 0, 0, 0x81], dtype=np.uint8)
    bits = "".join(f"{byte:08b}" for byte in bitshuffle(payload))
    assert bits == "111000001" + "0" * 54 + "000000001"


@settings(max_examples=30)
@given(payload=arrays(np.uint8, st.integers(0, 40)))
def test_bitshuffle_is_undone_and_keeps_the_length(payload: U8) -> None:
    shuffled = bitshuffle(payload)
    assert len(shuffled) == len(payload)
    assert np.array_equal(bitunshuffle(shuffled), payload)
