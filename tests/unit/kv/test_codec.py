"""Every codec gives back the exact bits, refuses damaged payloads, and costs what the contract counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Codec, Part, codec_by_id, codec_by_name
from h2o_gate_plugin.kv.fast import KvFast
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv_options import K_PREDICTORS, RUNTIME_CODECS

CODECS: dict[str, Codec] = {
    "gear": GearV22(),
    "gear-block-5": GearV22(block_tokens=5),
    "gear-raw-only": GearV22(("raw",), ("raw",)),
    "gear-bitshuffle": GearV22(block_tokens=16, bitshuffle=True),
    "gear-runtime-predictors": codec_by_name(RUNTIME_CODECS[0], K_PREDICTORS[:4], ("raw", "xor_seq")),
    "fast": KvFast(),
    "fast-bf16": KvFast("bf16"),
    "legacy": LegacyDelta(),
    "legacy-bitshuffle": LegacyDelta(bitshuffle=True),
}
PARTS: tuple[Part, ...] = ("k", "v")


def words(values: list[float], shape: tuple[int, int, int]) -> U16:
    """The fp16 words of ``values``, repeated to fill ``shape``."""
    return np.resize(np.array(values, dtype=np.float16).view(np.uint16), shape)


def random_walk(shape: tuple[int, int, int]) -> U16:
    steps = np.random.default_rng(7).normal(scale=0.05, size=shape)
    return np.cumsum(steps, axis=0).astype(np.float16).view(np.uint16)


TENSORS: dict[str, U16] = {
    "empty": np.empty((0, 2, 64), dtype=np.uint16),
    "no channels": np.empty((3, 2, 0), dtype=np.uint16),
    "one token": random_walk((1, 2, 64)),
    "one number": words([1.5], (1, 1, 1)),
    "odd sizes": random_walk((67, 3, 5)),
    "whole blocks": random_walk((128, 2, 64)),
    "nan payloads": np.resize(np.array([0x7E00, 0x7C01, 0xFE5A, 0xFFFF], dtype=np.uint16), (9, 2, 7)),
    "negative zero and infinities": words([-0.0, 0.0, np.inf, -np.inf], (33, 1, 6)),
    "subnormals": np.arange(1, 0x400, dtype=np.uint16)[: 10 * 2 * 8].reshape(10, 2, 8),
    "constant": words([0.25], (130, 2, 8)),
    "every word": np.arange(0x10000, dtype=np.uint16).reshape(256, 4, 64),
    "random bits": np.random.default_rng(1).integers(0, 0x10000, (70, 2, 16), dtype=np.uint16),
    "not contiguous": random_walk((40, 4, 6))[::2, 1:3],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_every_codec_gives_back_the_exact_bits(codec: Codec, tensor: U16, part: Part) -> None:
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    decoded = codec.decode(codec.encode(tensor, part), shape, part)
    assert decoded.dtype == np.uint16
    assert decoded.shape == tensor.shape
    assert decoded.flags.writeable
    assert np.array_equal(decoded, tensor)


@settings(max_examples=40)
@given(
    tensor=arrays(np.uint16, st.tuples(st.integers(0, 20), st.integers(1, 3), st.integers(1, 5))),
    block_tokens=st.integers(1, 21),
    predictors=st.lists(st.sampled_from(K_PREDICTORS), min_size=1, unique=True),
    bitshuffle=st.booleans(),
)
def test_any_setting_of_gear_round_trips_and_decodes_without_its_settings(
    tensor: U16, block_tokens: int, predictors: list[str], bitshuffle: bool
) -> None:
    payload = GearV22(predictors, block_tokens=block_tokens, bitshuffle=bitshuffle).encode(tensor, "k")
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    assert np.array_equal(codec_by_id(GearV22.codec_id).decode(payload, shape, "k"), tensor)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_a_cut_or_lengthened_payload_is_refused(codec: Codec) -> None:
    tensor = random_walk((12, 2, 6))
    payload = codec.encode(tensor, "k")
    for damaged in (*(payload[:length] for length in range(len(payload))), payload + b"\0", payload + payload):
        with pytest.raises(CodecError):
            codec.decode(damaged, (12, 2, 6), "k")


@pytest.mark.parametrize("shape", [(13, 2, 6), (11, 2, 6), (12, 2, 7), (12, 1, 6), (2**30, 2**15, 2**15)])
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_a_payload_of_another_shape_is_refused_before_anything_that_large_is_allocated(codec: Codec, shape: tuple[int, int, int]) -> None:
    payload = codec.encode(random_walk((12, 2, 6)), "v")
    with pytest.raises(CodecError):
        codec.decode(payload, shape, "v")


@pytest.mark.parametrize(("offset", "byte"), [(4, 0), (6, 2), (6, 0x80), (7, 9), (8, 5), (8, 255)])
def test_a_damaged_plane_header_is_named(offset: int, byte: int) -> None:
    codec = GearV22(block_tokens=16)
    payload = bytearray(codec.encode(random_walk((12, 2, 6)), "k"))
    payload[offset] = byte
    with pytest.raises(CodecError, match=r"plane header|predictor mode"):
        codec.decode(bytes(payload), (12, 2, 6), "k")


@pytest.mark.parametrize("tensor", [np.zeros((2, 2), np.uint16), np.zeros((2, 2, 2), np.float16)], ids=["rank", "dtype"])
@pytest.mark.parametrize("codec", [GearV22(), LegacyDelta(), KvFast()], ids=["gear", "legacy", "fast"])
def test_a_tensor_of_another_rank_or_dtype_is_refused(codec: Codec, tensor: U16) -> None:
    with pytest.raises(CodecError, match=r"expected uint16 \[n_seq, n_kv_head, head_dim\]"):
        codec.encode(tensor, "k")


@pytest.mark.parametrize(("block_tokens", "level"), [(0, 3), (65536, 3), (64, 0), (64, 23)])
def test_settings_out_of_range_are_refused(block_tokens: int, level: int) -> None:
    with pytest.raises(CodecError, match="expected 1 to"):
        GearV22(block_tokens=block_tokens, level=level)


def test_ties_go_to_the_first_predictor_listed() -> None:
    zeros = np.zeros((8, 1, 4), dtype=np.uint16)
    for first in ("xor_seq", "raw"):
        codec = GearV22((first, "delta_seq", "pair_delta"), block_tokens=4)
        assert codec.plane_modes(codec.encode(zeros, "k"), 8) == ((first, first), (first, first))


def test_each_plane_has_its_own_predictors_and_each_block_its_own_choice() -> None:
    ramp = np.arange(64, dtype=np.uint16)[:, None, None] * np.ones((1, 1, 16), dtype=np.uint16) * 3  # delta wins
    noise = np.random.default_rng(3).integers(0, 4, (64, 1, 16), dtype=np.uint16)  # raw wins: differences have more values
    codec = GearV22(("raw", "delta_seq"), ("raw",), block_tokens=64, k_lo_predictors=("raw", "delta_seq"))
    tensor = np.concatenate([ramp, noise])
    assert codec.plane_modes(codec.encode(tensor, "k"), 128)[1] == ("delta_seq", "raw")
    assert codec.plane_modes(codec.encode(tensor, "v"), 128) == (("raw", "raw"), ("raw", "raw"))


@pytest.mark.parametrize("codec", [GearV22(), KvFast()], ids=["gear", "fast"])
def test_one_codec_serves_many_threads(codec: Codec) -> None:
    tensors = [random_walk((96, 2, 16)) + np.uint16(shift) for shift in range(12)]
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda tensor: codec.decode(codec.encode(tensor, "k"), (96, 2, 16), "k"), tensors))
    assert all(np.array_equal(a, b) for a, b in zip(tensors, decoded, strict=True))


def test_the_registry_knows_every_runtime_codec_and_refuses_others() -> None:
    assert [codec_by_name(name).name for name in RUNTIME_CODECS] == list(RUNTIME_CODECS)
    assert [(codec_by_id(codec_id).name, codec_by_id(codec_id).codec_id) for codec_id in (1, 2, 3, 4)] == [
        ("fp16_gear_predictive_v3", 1),
        ("legacy_delta", 2),
        ("kv_fast", 3),
        ("kv_max", 4),
    ]
    with pytest.raises(CodecError, match="did you mean 'fp16_gear_predictive_v3'"):
        codec_by_name("fp16_gear_predictive_v2")
    with pytest.raises(CodecError, match=r"expected one of 1, 2\b.*, got 9"):
        codec_by_id(9)
