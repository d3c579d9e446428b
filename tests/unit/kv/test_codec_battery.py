"""What every registered codec must stand: exact bits in, exact bits out, and of anything else a CodecError in bounded memory.

A codec joins by being registered. `make bounds` runs this file with numba's bounds checks on.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.codec import U16, Codec, Part, Shape, every_codec
from h2o_gate_plugin.kv.codec_kernels import join_words
from h2o_gate_plugin.kv.frame import HEADER_BYTES, UnpackedFrame, pack, unpack
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.runtime.measure import load
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.timed_run import kv_shape

CODECS = every_codec()
PARTS: tuple[Part, ...] = ("k", "v")
DTYPES: tuple[KvDtype, ...] = ("fp16", "bf16")
REFERENCE = Path(__file__).parents[3] / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
ALLOWED_BYTES = 2**20
"""What a refusal may allocate: imports, messages and tables, whatever the shape."""

with_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
with_part = pytest.mark.parametrize("part", PARTS)
with_dtype = pytest.mark.parametrize("dtype", DTYPES)


def shape_of(tensor: U16) -> Shape:
    return (tensor.shape[0], tensor.shape[1], tensor.shape[2])


def words(values: npt.NDArray[np.float32], dtype: KvDtype) -> U16:
    """fp16 words rounded, bf16 words cut off."""
    return values.astype(np.float16).view(np.uint16) if dtype == "fp16" else (values.view(np.uint32) >> 16).astype(np.uint16)


def walk(shape: Shape, dtype: KvDtype, seed: int = 7) -> U16:
    return words(np.cumsum(np.random.default_rng(seed).normal(scale=0.05, size=shape), axis=0).astype(np.float32), dtype)


def filled(shape: Shape, *numbers: int) -> U16:
    return np.resize(np.array(numbers, dtype=np.uint16), shape)


TENSORS: dict[str, Callable[[KvDtype], U16]] = {
    "empty": lambda _: filled((0, 2, 64)),
    "no heads": lambda _: filled((3, 0, 64)),
    "no channels": lambda _: filled((3, 2, 0)),
    "one token": lambda dtype: walk((1, 2, 64), dtype),
    "one number": lambda dtype: walk((1, 1, 1), dtype),
    "odd sizes": lambda dtype: walk((67, 3, 5), dtype),
    "one channel": lambda dtype: walk((130, 1, 1), dtype),
    "one more than a block": lambda dtype: walk((129, 2, 64), dtype),
    "nan payloads": lambda dtype: filled((9, 2, 7), *((0x7E00, 0x7C01, 0xFE5A, 0xFFFF) if dtype == "fp16" else (0x7FC0, 0x7F81, 0xFFC5))),
    "negative zeros": lambda _: filled((33, 1, 6), 0x8000, 0x0000, 0x8000),
    "infinities": lambda dtype: filled((33, 1, 6), *((0x7C00, 0xFC00, 0x3C00) if dtype == "fp16" else (0x7F80, 0xFF80, 0x3F80))),
    "subnormals": lambda dtype: filled((20, 2, 8), *range(1, 0x400 if dtype == "fp16" else 0x80)),
    "constant": lambda dtype: filled((130, 2, 8), 0x3400 if dtype == "fp16" else 0x3E80),
    "two values": lambda dtype: filled((70, 2, 8), 0x3400, 0x3401, 0x3401, 0x3400, 0x3401),
    "every word": lambda _: np.arange(0x10000, dtype=np.uint16).reshape(256, 4, 64),
    "random": lambda _: np.random.default_rng(1).integers(0, 0x10000, (70, 2, 16), dtype=np.uint16),
    "one rare word": lambda dtype: np.where(np.arange(8192).reshape(64, 2, 64) == 5000, 0xFFFF, walk((64, 2, 64), dtype)).astype(np.uint16),
    "not contiguous": lambda dtype: walk((40, 4, 6), dtype)[::2, 1:3],
    "transposed": lambda dtype: walk((6, 2, 40), dtype).transpose(2, 1, 0),
}


@pytest.fixture(scope="module")
def real_kv() -> dict[tuple[int, Part], U16]:
    """fp16 words of the reference model's KV by layer and part, 160 tokens of held-out text."""
    loaded = load(REFERENCE, "text", 1)
    with KvCache(kv_shape(loaded.model), loaded.full_policy) as cache:
        prefill(loaded.model, loaded.prompts.prompt(160, 0).ids, cache)
        return {(layer, part): cache.words(layer, part) for layer in (0, 7) for part in PARTS}


def assert_round_trip(codec: Codec, tensor: U16, part: Part, dtype: KvDtype) -> None:
    before = tensor.copy()
    decoded = codec.decode(codec.encode(tensor, part), shape_of(tensor), part)
    assert (decoded.dtype.name, decoded.shape, decoded.flags.writeable) == ("uint16", tensor.shape, True)
    assert np.array_equal(decoded, before)
    unpacked = unpack(pack(codec, tensor, 3, part, 17, dtype))
    assert unpacked[1:] == (3, part, 17, dtype)
    assert np.array_equal(unpacked.tensor, before)
    assert np.array_equal(tensor, before), "the codec wrote into its input"


@with_dtype
@with_part
@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS.keys())
@with_codec
def test_every_codec_gives_back_the_exact_words_and_so_does_its_frame(
    codec: Codec, make: Callable[[KvDtype], U16], part: Part, dtype: KvDtype
) -> None:
    assert_round_trip(codec, make(dtype), part, dtype)


@with_dtype
@with_codec
def test_real_kv_comes_back(codec: Codec, dtype: KvDtype, real_kv: dict[tuple[int, Part], U16]) -> None:
    for (_, part), fp16 in real_kv.items():
        assert_round_trip(codec, fp16 if dtype == "fp16" else words(fp16.view(np.float16).astype(np.float32), dtype), part, dtype)


@settings(max_examples=60)
@given(
    tensor=st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 9)).flatmap(
        lambda shape: st.one_of(arrays(np.uint16, shape), arrays(np.uint16, shape, elements=st.sampled_from([0, 1, 0x3C00, 0xFFFF])))
    ),
    part=st.sampled_from(PARTS),
)
@with_codec
def test_any_tensor_comes_back(codec: Codec, tensor: U16, part: Part) -> None:
    assert np.array_equal(codec.decode(codec.encode(tensor, part), shape_of(tensor), part), tensor)


def flipped(data: bytes, most: int) -> Iterator[bytes]:
    """One bit changed: every one, or ``most`` of them drawn by a fixed seed."""
    for bit in drawn(8 * len(data), most):
        damaged = bytearray(data)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        yield bytes(damaged)


def drawn(n: int, most: int) -> Sequence[int]:
    """All numbers below ``n``, or ``most`` of them."""
    return range(n) if n <= most else sorted(np.random.default_rng(n).choice(n, most, replace=False).tolist())


def assert_refused_or_exact(frame: bytes, packed: UnpackedFrame) -> None:
    """What decodes to the very words is no damage: see docs/frame-format.md."""
    try:
        unpacked = unpack(frame)
    except CodecError:
        return
    assert unpacked[1:] == packed[1:]
    assert np.array_equal(unpacked.tensor, packed.tensor)


def assert_refused_or_of_that_shape(codec: Codec, payload: bytes, shape: Shape, part: Part) -> None:
    """A bare payload has no checksum: other words may come back, nothing else."""
    try:
        decoded = codec.decode(payload, shape, part)
    except CodecError:
        return
    assert (decoded.dtype.name, decoded.shape) == ("uint16", shape)


SMALL = {
    "walk": lambda: walk((11, 2, 6), "fp16"),
    "constant": lambda: filled((70, 1, 4), 0x3C00),
    "real-sized": lambda: walk((128, 2, 64), "fp16"),
}
with_small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


@with_part
@with_small
@with_codec
def test_a_flipped_bit_is_found_by_the_frame_and_breaks_nothing_without_it(codec: Codec, make: Callable[[], U16], part: Part) -> None:
    tensor = make()
    frame = pack(codec, tensor, 1, part, 5)
    packed = unpack(frame)
    most = 200_000 // tensor.size  # every bit of small payloads, a few of those that a slow codec decodes in 0.1 s
    for damaged in flipped(frame, most):
        assert_refused_or_exact(damaged, packed)
    for damaged in flipped(frame[HEADER_BYTES:], most):
        assert_refused_or_of_that_shape(codec, damaged, shape_of(tensor), part)


@with_codec
def test_a_flipped_bit_of_the_header_is_always_found(codec: Codec) -> None:
    frame = pack(codec, walk((11, 2, 6), "fp16"), 1, "k", 5)
    for header in flipped(frame[:HEADER_BYTES], 8 * HEADER_BYTES):
        with pytest.raises(CodecError):
            unpack(header + frame[HEADER_BYTES:])


@with_part
@pytest.mark.parametrize("make", [SMALL["walk"], SMALL["constant"], lambda: filled((0, 1, 4))], ids=["walk", "constant", "empty"])
@with_codec
def test_every_truncation_and_a_tail_is_refused_with_and_without_a_frame(codec: Codec, make: Callable[[], U16], part: Part) -> None:
    tensor = make()
    frame = pack(codec, tensor, 1, part, 5)
    payload = frame[HEADER_BYTES:]
    for damaged in (*(frame[:n] for n in range(len(frame))), frame + b"\0", frame + frame):
        with pytest.raises(CodecError):
            unpack(damaged)
    for damaged in (*(payload[:n] for n in range(len(payload))), payload + b"\0", payload + payload):
        with pytest.raises(CodecError):
            codec.decode(damaged, shape_of(tensor), part)


def with_header(frame: bytes, **changed: int) -> bytes:
    """``frame`` with fields of its header replaced, all checksums but that of the content made right again."""
    offsets = {"codec_id": (5, "B"), "part": (7, "B"), "payload_bytes": (32, "I")}
    fields = bytearray(frame[: HEADER_BYTES - 4])
    for name, value in changed.items():
        offset, code = offsets[name]
        struct.pack_into(f"<{code}", fields, offset, value)
    return bytes(fields) + struct.pack("<I", zlib.crc32(fields)) + frame[HEADER_BYTES:]


def with_shape(frame: bytes, shape: Shape) -> bytes:
    fields = bytearray(frame[: HEADER_BYTES - 4])
    struct.pack_into("<III", fields, 12, *shape)
    return bytes(fields) + struct.pack("<I", zlib.crc32(fields)) + frame[HEADER_BYTES:]


@pytest.mark.parametrize("other", CODECS, ids=lambda codec: f"as-{codec.name}")
@with_codec
def test_a_payload_under_another_codec_s_id_is_refused(codec: Codec, other: Codec) -> None:
    frame = pack(codec, walk((70, 2, 6), "fp16"), 1, "k", 5)
    if codec.codec_id == other.codec_id:
        assert unpack(with_header(frame, codec_id=codec.codec_id)).layer == 1
        return
    with pytest.raises(CodecError):
        unpack(with_header(frame, codec_id=other.codec_id))
    with pytest.raises(CodecError):
        unpack(frame, other)


@with_codec
def test_another_declared_length_is_refused(codec: Codec) -> None:
    frame = pack(codec, walk((70, 2, 6), "fp16"), 1, "k", 5)
    n_payload = len(frame) - HEADER_BYTES
    for n_bytes in (0, 1, n_payload - 1, n_payload + 1, 2 * n_payload, 2**31, 2**32 - 1):
        with pytest.raises(CodecError):
            unpack(with_header(frame, payload_bytes=n_bytes))
    for cut in (0, 1, n_payload // 2, n_payload - 1):
        with pytest.raises(CodecError):
            unpack(with_header(frame[: HEADER_BYTES + cut], payload_bytes=cut))


@with_part
@with_codec
def test_another_declared_shape_is_refused(codec: Codec, part: Part) -> None:
    frame = pack(codec, walk((12, 2, 6), "fp16"), 1, part, 5)
    for shape in ((13, 2, 6), (11, 2, 6), (12, 2, 7), (12, 1, 6), (0, 2, 6), (12, 0, 6), (1, 1, 1), (2**16, 2, 6)):
        with pytest.raises(CodecError):
            unpack(with_shape(frame, shape))


@with_codec
def test_payloads_spliced_from_two_frames_are_refused(codec: Codec) -> None:
    one, two = (pack(codec, walk((70, 2, 6), "fp16", seed), 1, "k", 5) for seed in (1, 2))
    payloads = one[HEADER_BYTES:], two[HEADER_BYTES:]
    swapped = with_header(one[:HEADER_BYTES] + payloads[1], payload_bytes=len(payloads[1]))
    with pytest.raises(CodecError):
        unpack(swapped)
    packed = unpack(one)
    for cut in drawn(min(map(len, payloads)), 200):
        spliced = payloads[0][:cut] + payloads[1][cut:]
        assert_refused_or_exact(with_header(one[:HEADER_BYTES] + spliced, payload_bytes=len(spliced)), packed)
        assert_refused_or_of_that_shape(codec, spliced, (70, 2, 6), "k")


@with_codec
def test_k_read_as_v_gives_the_same_words_or_is_refused(codec: Codec) -> None:
    tensor = walk((70, 2, 6), "fp16")
    frame = with_header(pack(codec, tensor, 1, "k", 5), part=1)
    try:
        unpacked = unpack(frame)
    except CodecError:
        return
    assert np.array_equal(unpacked.tensor, tensor)


HOSTILE_SHAPES = (
    (2**30, 1, 1),
    (1, 2**30, 1),
    (1, 1, 2**30),
    (2**15, 2**8, 2**7),
    (2**31 - 1, 1, 1),
    (2**30, 2**15, 2**15),
    (2**32 - 1, 2**32 - 1, 2**32 - 1),
    (0, 2**32 - 1, 2**32 - 1),
    (0, 2**31 - 1, 1),
    (0, 1, 2**31 - 1),
    (2**31 - 1, 0, 1),
    (2**31 - 1, 1, 0),
    (-1, 2, 6),
    (-1, -2, 6),
)


def peak_bytes(call: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@with_part
@pytest.mark.parametrize("shape", HOSTILE_SHAPES, ids=str)
@with_codec
def test_a_hostile_shape_is_refused_or_empty_in_bounded_memory(codec: Codec, shape: Shape, part: Part) -> None:
    small, empty = walk((12, 2, 6), "fp16"), filled((0, 2, 6))
    encoded = [codec.encode(tensor, part) for tensor in (small, empty, filled((300, 2, 6), 1))]
    for payload in (*encoded, b"", bytes(64), b"\xff" * 64):
        assert peak_bytes(partial(assert_refused_or_empty, codec, payload, shape, part)) < ALLOWED_BYTES
    if min(shape) >= 0:
        frame = with_shape(pack(codec, small, 1, part, 5), shape)
        assert peak_bytes(partial(assert_refused, partial(unpack, frame))) < ALLOWED_BYTES


def assert_refused_or_empty(codec: Codec, payload: bytes, shape: Shape, part: Part) -> None:
    try:
        decoded = codec.decode(payload, shape, part)
    except CodecError:
        return
    assert decoded.shape == shape
    assert decoded.size == 0


def assert_refused(decode: Callable[[], object]) -> None:
    with pytest.raises(CodecError):
        decode()


def zstd_frames_that_lie() -> dict[str, bytes]:
    """Whatever they say, none holds 72 bytes."""
    zeros = bytes(2**26)
    sized, unsized = (zstandard.ZstdCompressor(level=1, write_content_size=sized).compress(zeros) for sized in (True, False))
    honest = zstandard.ZstdCompressor(level=1).compress(bytes(72))  # 28b52ffd, descriptor 0x20: one byte of content size
    return {
        "a bomb that says so": sized,
        "a bomb that does not say": unsized,
        "a bomb that says 72": honest[:5] + bytes([72]) + sized[9:],
        "says 255": honest[:5] + b"\xff" + honest[6:],
        "says 2 GiB": b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 2**31 - 1) + honest[6:],
        "skippable": b"\x50\x2a\x4d\x18" + struct.pack("<I", 72) + bytes(72),
        "reserved block": honest[:6] + b"\x07\x00\x00",
    }


LYING = zstd_frames_that_lie()


@pytest.mark.parametrize("shape", [(12, 1, 6), (0, 1, 6), (2**31 - 1, 1, 1)], ids=str)
@pytest.mark.parametrize("lie", LYING.values(), ids=LYING.keys())
@with_codec
def test_a_zstd_frame_that_lies_is_refused_in_bounded_memory(codec: Codec, lie: bytes, shape: Shape) -> None:
    """In the place of either stream of the payloads that are built on zstd; for the others it is one more strange payload."""
    honest = zstandard.ZstdCompressor(level=3).compress(bytes(72))
    plane = struct.Struct("<IHBB")
    payloads = [
        lie,
        lie + honest,
        honest + lie,
        *(
            b"".join(plane.pack(len(frame), 0xFFFF, 0, 1) + bytes(-(-shape[0] // 0xFFFF)) + frame for frame in frames)
            for frames in ((lie, honest), (honest, lie))
        ),
    ]
    for payload in payloads:
        assert peak_bytes(partial(assert_refused, partial(codec.decode, payload, shape, "k"))) < ALLOWED_BYTES


@settings(max_examples=100)
@given(
    payload=st.binary(max_size=400),
    shape=st.tuples(st.integers(0, 140), st.integers(0, 3), st.integers(0, 70)),
    part=st.sampled_from(PARTS),
)
@example(payload=b"", shape=(0, 0, 0), part="k")
@with_codec
def test_any_bytes_are_refused_or_decode_to_that_shape(codec: Codec, payload: bytes, shape: Shape, part: Part) -> None:
    assert_refused_or_of_that_shape(codec, payload, shape, part)


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 2), st.integers(1, 17)),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    part=st.sampled_from(PARTS),
)
@with_codec
def test_a_payload_with_some_bytes_replaced_is_refused_or_decodes_to_that_shape(
    codec: Codec, shape: Shape, edits: list[tuple[int, int]], part: Part
) -> None:
    tensor = walk(shape, "fp16")
    frame = bytearray(pack(codec, tensor, 1, part, 5))
    packed = UnpackedFrame(tensor, 1, part, 5, "fp16")
    for at, value in edits:
        frame[HEADER_BYTES + at % (len(frame) - HEADER_BYTES)] = value
    assert_refused_or_of_that_shape(codec, bytes(frame[HEADER_BYTES:]), shape, part)
    assert_refused_or_exact(bytes(frame), packed)


@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="`make bounds` turns numba's bounds checks on")
def test_bounds_checks_are_in_the_kernels_when_they_are_asked_for() -> None:
    """Machine code from a cache of other runs would have none, and this file would prove nothing."""
    with pytest.raises(IndexError):
        join_words(np.zeros((2, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint8), np.zeros((4, 1, 1), np.uint16))
