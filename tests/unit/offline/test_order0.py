"""The entropy bound: no honest payload is below it, whatever it codes; a payload that lacks something is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import log2

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv.planes import U16, Part, StoredPlane
from h2o_gate_plugin.kv.zstd_frames import shortest_match_bytes
from h2o_gate_plugin.offline.coding import MeasuredCodec
from h2o_gate_plugin.offline.order0 import payload_bound_bytes

CODECS: dict[str, MeasuredCodec] = {
    "gear 3": GearV22(),
    "gear 1": GearV22(level=1, block_tokens=16),
    "gear 9": GearV22(level=9, block_tokens=5),
    "gear 19": GearV22(level=19),
    "gear delta": GearV22(("delta_seq",), ("xor_seq", "raw")),
    "legacy 3": LegacyDelta(),
    "legacy 22": LegacyDelta(22),
}
PARTS: tuple[Part, ...] = ("k", "v")


@st.composite
def tensors(draw: st.DrawFn) -> U16:
    """Constant, random, few values, repeated rows, constant channels, rows that repeat in part, and two of these one after the other."""
    shape = draw(st.integers(1, 150)), draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 4, 7, 16, 64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = st.sampled_from(["constant", "random", "few", "normal", "rows", "channels", "partial", "ramp"])
    return np.concatenate([tensor_of(kind, shape, rng) for kind in draw(st.lists(kinds, min_size=1, max_size=2))])


def tensor_of(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> U16:
    random: U16 = rng.integers(0, 2**16, shape, dtype=np.uint16)
    normal: U16 = rng.normal(size=shape).astype(np.float16).view(np.uint16)
    if kind == "constant":
        return np.full(shape, rng.integers(0, 2**16), dtype=np.uint16)
    if kind == "few":
        return rng.choice(np.array([0, 0x3C00, 0x3C01], dtype=np.uint16), shape)
    if kind == "rows":
        return normal[rng.integers(0, 1 + shape[0] // 8, shape[0])]
    if kind == "channels":
        return np.where(rng.random(shape[2]) < 0.7, normal[:1], normal)
    if kind == "partial":
        start = int(rng.integers(0, shape[2]))
        normal[..., start : start + 1 + shape[2] // 2] = normal[:1, :1, start : start + 1 + shape[2] // 2]
        return normal
    if kind == "ramp":
        return np.arange(random.size, dtype=np.uint16).reshape(shape)
    return random if kind == "random" else normal


def is_above_bound(codec: MeasuredCodec, tensor: U16, part: Part) -> bool:
    payload = codec.encode(tensor, part)
    bound = payload_bound_bytes(tensor, codec.stored_planes(payload, len(tensor)))
    assert bound is not None
    return len(payload) < bound


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60)
@given(tensor=tensors())
def test_an_honest_payload_is_never_below_the_bound(name: str, tensor: U16) -> None:
    for part in PARTS:
        assert not is_above_bound(CODECS[name], tensor, part)


@pytest.mark.parametrize("name", CODECS)
def test_nor_is_one_of_many_zstd_blocks_whose_values_change_at_once(name: str) -> None:
    """Planes of 320 KiB: zstd changes its tables between blocks and within; here values change at odd places."""
    rng = np.random.default_rng(5)
    spans = [
        rng.integers(base, base + width, (n, 2, 64), dtype=np.uint16) for base, width, n in ((0, 4, 700), (9000, 99, 1300), (5, 3, 560))
    ]
    assert not is_above_bound(CODECS[name], np.concatenate(spans), "v")


@pytest.mark.parametrize("level", [1, 3, 9, 10, 16, 22])
def test_the_shortest_match_is_that_of_zstd_s_search(level: int) -> None:
    """zstd's optimal parsers alone take matches of three bytes; the strategy depends on the level and on the size."""
    for n_bytes in (1, 100, 10_000, 100_000, 10**6, 10**9):
        strategy = zstandard.ZstdCompressionParameters.from_level(level, source_size=n_bytes).strategy
        assert strategy < zstandard.STRATEGY_BTOPT or shortest_match_bytes(level) == 3


@dataclass(frozen=True)
class Claim:
    """A codec that says its payload has ``share`` of its bytes, or lacks a plane."""

    share: float = 1.0
    forgets: str = ""

    def claimed(self, payload: bytes, planes: tuple[StoredPlane, StoredPlane]) -> int:
        if self.forgets:
            return planes[self.forgets == "high"].n_bytes
        return int(len(payload) * self.share)


@pytest.mark.parametrize("claim", [Claim(0.5), Claim(0.75), Claim(forgets="high"), Claim(forgets="low")], ids=repr)
@pytest.mark.parametrize("part", PARTS)
def test_a_payload_that_lacks_something_is_below_the_bound(claim: Claim, part: Part) -> None:
    tensor = tensor_of("normal", (192, 2, 64), np.random.default_rng(1))
    codec = GearV22()
    payload = codec.encode(tensor, part)
    planes = codec.stored_planes(payload, len(tensor))
    bound = payload_bound_bytes(tensor, planes)
    assert bound is not None
    assert claim.claimed(payload, planes) < bound <= len(payload)


@pytest.mark.parametrize(("block_tokens", "head_dim"), [(16, 16), (33, 40)], ids=["small blocks", "a block of two pieces"])
def test_the_bound_equals_plain_counting(block_tokens: int, head_dim: int) -> None:
    row = 3 * head_dim
    tensor = tensor_of("partial", (70, 3, head_dim), np.random.default_rng(3))
    codec = GearV22(("delta_seq", "raw"), block_tokens=block_tokens)
    planes = codec.stored_planes(codec.encode(tensor, "k"), len(tensor))
    expected = 0
    for plane, stored in zip((tensor >> 8, tensor & 0xFF), planes, strict=True):
        symbols: list[int] = []
        for index, name in enumerate(stored.modes):
            block = plane[index * block_tokens : (index + 1) * block_tokens].astype(int)
            symbols += ((np.diff(block, axis=0, prepend=0) if name == "delta_seq" else block) % 256).reshape(-1).tolist()
        strings = [tuple(symbols[i : i + 4]) for i in range(len(symbols) - 3)]
        first: dict[tuple[int, ...], int] = {}
        for i, string in enumerate(strings):
            first.setdefault(string, i)
        reached = {i + j for i, string in enumerate(strings) if first[string] < i for j in range(4)}
        bits = 0.0
        pieces: dict[tuple[int, int], Counter[int]] = {}
        for i in set(range(len(symbols))) - reached:
            pieces.setdefault((i // (block_tokens * row), i // 4096), Counter())[symbols[i]] += 1
        for piece in pieces.values():
            bits += sum(count * log2(piece.total() / count) for count in piece.values())
        expected += int(bits / 8)
    bound = payload_bound_bytes(tensor, planes)
    assert bound is not None
    assert expected - 40 <= bound <= expected  # a few strings share their bits


def test_symbols_that_are_not_residuals_have_no_bound() -> None:
    tensor = tensor_of("normal", (20, 2, 8), np.random.default_rng(1))
    for codec in (GearV22(bitshuffle=True), LegacyDelta(bitshuffle=True)):
        assert payload_bound_bytes(tensor, codec.stored_planes(codec.encode(tensor, "k"), 20)) is None
    assert payload_bound_bytes(tensor, None) is None


@pytest.mark.parametrize("codec", [GearV22(), LegacyDelta(), GearV22(bitshuffle=True)], ids=["gear", "legacy", "shuffled"])
def test_the_planes_of_a_payload_are_all_of_its_bytes(codec: MeasuredCodec) -> None:
    tensor = tensor_of("normal", (100, 2, 8), np.random.default_rng(1))
    payload = codec.encode(tensor, "k")
    planes = codec.stored_planes(payload, 100)
    assert planes is not None
    assert sum(plane.n_bytes for plane in planes) == len(payload)
    assert tuple(plane.modes for plane in planes) == codec.plane_modes(payload, 100)
