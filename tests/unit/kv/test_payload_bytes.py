"""What a codec writes, byte for byte, against the contract's arithmetic done slowly: one byte at a time in plain Python integers."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv_options import K_PREDICTORS, V_PREDICTORS

U16 = npt.NDArray[np.uint16]
Plane = list[list[list[int]]]
"""Bytes [n_seq][n_kv_head][head_dim]."""

MODES = {"raw": 0, "delta_seq": 1, "xor_seq": 2, "pair_delta": 3, "pair_delta_delta_seq": 4}


def minus_even_neighbour(plane: Plane) -> Plane:
    return [[[byte - head[c - 1] if c % 2 else byte for c, byte in enumerate(head)] for head in token] for token in plane]


def with_token_before(plane: Plane, operation: Callable[[int, int], int]) -> Plane:
    """The first token stays as it is."""
    steps = [
        [[operation(a, b) for a, b in zip(head, other, strict=True)] for head, other in zip(token, before, strict=True)]
        for token, before in zip(plane[1:], plane, strict=False)
    ]
    return [*plane[:1], *steps]


def residual_bytes(block: Plane, name: str) -> bytes:
    """Of one block of tokens."""
    if name.startswith("pair_delta"):
        block = minus_even_neighbour(block)
    if name.endswith("delta_seq"):
        block = with_token_before(block, lambda a, b: a - b)
    if name == "xor_seq":
        block = with_token_before(block, lambda a, b: a ^ b)
    return bytes(byte % 256 for token in block for head in token for byte in head)


def shuffled(data: bytes) -> bytes:
    """Bit planes, highest first."""
    bits = "".join(str(byte >> bit & 1) for bit in range(7, -1, -1) for byte in data)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def zstd(data: bytes, level: int, bitshuffle: bool) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(shuffled(data) if bitshuffle else data)


def gear_plane(plane: Plane, names: list[str], block_tokens: int, level: int, bitshuffle: bool) -> bytes:
    modes, chosen = b"", b""
    for start in range(0, len(plane), block_tokens):
        block = plane[start : start + block_tokens]
        smallest = min(names, key=lambda name: len(zstd(residual_bytes(block, name), level, bitshuffle)))  # the first of equals
        modes += bytes([MODES[smallest]])
        chosen += residual_bytes(block, smallest)
    frame = zstd(chosen, level, bitshuffle)
    return struct.pack("<IHBB", len(frame), block_tokens, bitshuffle, 1) + modes + frame


def planes_of(tensor: U16) -> tuple[Plane, Plane]:
    return (tensor >> 8).tolist(), (tensor & 0xFF).tolist()


def gear_payload(tensor: U16, high: list[str], low: list[str], block_tokens: int, level: int = 3, bitshuffle: bool = False) -> bytes:
    return b"".join(
        gear_plane(plane, names, block_tokens, level, bitshuffle) for plane, names in zip(planes_of(tensor), (high, low), strict=True)
    )


def few_words(shape: tuple[int, int, int]) -> st.SearchStrategy[U16]:
    """Words that repeat, so that predictors tie and zstd finds matches."""
    return arrays(np.uint16, shape, elements=st.sampled_from([0, 1, 0x00FF, 0x3C00, 0x3C01, 0xBBFF, 0xFFFF]))


def any_tensor() -> st.SearchStrategy[U16]:
    shapes = st.tuples(st.integers(0, 24), st.integers(1, 3), st.integers(0, 9))
    return shapes.flatmap(lambda shape: st.one_of(arrays(np.uint16, shape), few_words(shape)))


def walk(shape: tuple[int, int, int], seed: int) -> U16:
    steps = np.random.default_rng(seed).normal(scale=0.02, size=shape)
    return np.cumsum(steps, axis=0).astype(np.float16).view(np.uint16)


names = st.lists(st.sampled_from(K_PREDICTORS), min_size=1, unique=True)


@settings(max_examples=150)
@given(
    tensor=any_tensor(), high=names, low=names, block_tokens=st.integers(1, 25), level=st.sampled_from([1, 3, 9]), bitshuffle=st.booleans()
)
def test_gear_writes_the_contract_s_bytes(
    tensor: U16, high: list[str], low: list[str], block_tokens: int, level: int, bitshuffle: bool
) -> None:
    codec = GearV22(high, ("raw",), block_tokens, level, k_lo_predictors=low, bitshuffle=bitshuffle)
    payload = gear_payload(tensor, high, low, block_tokens, level, bitshuffle)
    assert codec.encode(tensor, "k") == payload
    assert np.array_equal(codec.decode(payload, (tensor.shape[0], tensor.shape[1], tensor.shape[2]), "k"), tensor)


@pytest.mark.parametrize(
    ("shape", "block_tokens"),
    [((150, 2, 64), 64), ((64, 2, 64), 64), ((33, 1, 128), 16), ((40, 3, 37), 13), ((70, 5, 1), 32), ((9, 2, 255), 4)],
)
@pytest.mark.parametrize("predictors", [K_PREDICTORS[:4], K_PREDICTORS, V_PREDICTORS, *((name,) for name in K_PREDICTORS)], ids=",".join)
def test_gear_writes_the_contract_s_bytes_for_rows_of_any_width(
    shape: tuple[int, int, int], block_tokens: int, predictors: tuple[str, ...]
) -> None:
    tensor = walk(shape, seed=len(predictors))
    codec = GearV22(predictors, predictors, block_tokens, v_lo_predictors=("raw",))
    assert codec.encode(tensor, "k") == gear_payload(tensor, list(predictors), list(predictors), block_tokens)
    assert codec.encode(tensor, "v") == gear_payload(tensor, list(predictors), ["raw"], block_tokens)
    assert np.array_equal(codec.decode(codec.encode(tensor, "k"), shape, "k"), tensor)


@settings(max_examples=50)
@given(tensor=any_tensor(), bitshuffle=st.booleans())
def test_legacy_writes_the_contract_s_bytes(tensor: U16, bitshuffle: bool) -> None:
    high, low = planes_of(tensor)
    expected = zstd(residual_bytes(high, "delta_seq"), 3, bitshuffle) + zstd(residual_bytes(low, "raw"), 3, bitshuffle)
    assert LegacyDelta(bitshuffle=bitshuffle).encode(tensor, "k") == expected
