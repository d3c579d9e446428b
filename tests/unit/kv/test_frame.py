"""A frame gives the exact tensor and says where it belongs, or raises."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Part, Shape
from h2o_gate_plugin.kv.frame import HEADER_BYTES, LAYOUTS, pack, read_header, unpack
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta

TENSOR: U16 = np.random.default_rng(5).normal(size=(9, 2, 4)).astype(np.float16).view(np.uint16)
FRAME = pack(GearV22(block_tokens=4), TENSOR, layer=3, part="v", token_start=1_000)


class LyingCodec(GearV22):
    """Decodes to something else: the right shape, one wrong bit."""

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        tensor = super().decode(payload, shape, part)
        tensor[0, 0, 0] ^= 1
        return tensor


def with_field(offset: int, value: bytes) -> bytes:
    """``FRAME`` with header bytes replaced and the header's own checksum made right again."""
    fields = bytearray(FRAME[: HEADER_BYTES - 4])
    fields[offset : offset + len(value)] = value
    return bytes(fields) + struct.pack("<I", zlib.crc32(fields)) + FRAME[HEADER_BYTES:]


def test_a_frame_gives_back_tensor_and_place() -> None:
    unpacked = unpack(FRAME)
    assert np.array_equal(unpacked.tensor, TENSOR)
    assert (unpacked.layer, unpacked.part, unpacked.token_start, unpacked.dtype) == (3, "v", 1_000, "fp16")


def test_the_header_can_be_read_without_decoding() -> None:
    header = read_header(FRAME)
    assert (header.codec_id, header.shape, header.payload_bytes) == (1, (9, 2, 4), len(FRAME) - HEADER_BYTES)


def test_every_flipped_byte_is_found() -> None:
    for index in range(len(FRAME)):
        damaged = bytearray(FRAME)
        damaged[index] ^= 0xFF
        with pytest.raises(CodecError):
            unpack(bytes(damaged))


def test_every_truncation_and_a_tail_is_found() -> None:
    for damaged in (*(FRAME[:length] for length in range(len(FRAME))), FRAME + b"\0"):
        with pytest.raises(CodecError):
            unpack(damaged)


def test_a_codec_that_decodes_to_other_bits_is_found_by_the_checksum() -> None:
    with pytest.raises(CodecError, match=r"layer 3 v tokens 1000\+9: expected decoded bytes with the stored XXH3-64"):
        unpack(FRAME, LyingCodec())


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (4, b"\x03", "expected b'H2KV' 1 or 2, got b'H2KV' 3"),
        (4, b"\x01", "header: expected a matching CRC-32"),
        (5, b"\x09", r"codec: id: expected one of 1, 2\b.*, got 9"),
        (6, b"\x07", "dtype 7"),
        (7, b"\x02", "part 2"),
        (12, struct.pack("<III", 2**20, 2**20, 2**20), "shape: expected at most 2147483647 elements"),
        (12, struct.pack("<I", 10), "zstd frame: expected 80 decoded bytes"),
        (32, struct.pack("<I", 1), "length: expected"),
    ],
)
def test_a_header_that_is_whole_but_wrong_is_refused_by_name(offset: int, value: bytes, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        unpack(with_field(offset, value))


def test_another_codec_s_frame_is_refused() -> None:
    with pytest.raises(CodecError, match=r"expected id 2 \(legacy_delta\), got 1"):
        unpack(FRAME, LegacyDelta())


def test_values_that_no_header_holds_are_refused() -> None:
    with pytest.raises(CodecError, match="layer -1"):
        pack(GearV22(), TENSOR, -1, "k", 0)
    with pytest.raises(CodecError, match="expected uint16"):
        pack(GearV22(), TENSOR.view(np.float16), 0, "k", 0)


@pytest.mark.parametrize("shape", [(0, 2**32 - 1, 2**32 - 1), (2**31, 1, 0), (0, 2**20, 2**20), (2**32 - 1, 1, 1)])
def test_a_shape_that_no_codec_writes_is_refused_even_where_it_is_empty(shape: Shape) -> None:
    with pytest.raises(CodecError, match="shape: expected at most"):
        unpack(with_field(12, struct.pack("<III", *shape)))


def test_a_version_1_frame_of_a_dtype_that_version_1_never_had_is_refused() -> None:
    fields = bytearray(bytes.fromhex(GOLDEN[1, "gear_v22"])[:40])
    fields[6] = 2
    with pytest.raises(CodecError, match="dtype 2"):
        unpack(bytes(fields) + struct.pack("<I", zlib.crc32(fields)))


@pytest.mark.parametrize(("version", "codec"), [(1, "gear_v22"), (1, "legacy"), (2, "gear_v22"), (2, "legacy")])
def test_a_stored_frame_still_decodes(version: int, codec: str) -> None:
    """Written by the releases that wrote them; zstd may compress differently one day, but these must always decode."""
    frame = bytes.fromhex(GOLDEN[version, codec])
    unpacked = unpack(frame)
    assert read_header(frame).layout.version == version
    assert np.array_equal(unpacked.tensor, (np.arange(12, dtype=np.uint16) * 257).reshape(6, 1, 2))
    place = (unpacked.layer, unpacked.part, unpacked.token_start, unpacked.dtype)
    assert place == (2, "v" if codec == "legacy" else "k", 5, "bf16" if (version, codec) == (2, "legacy") else "fp16")


@pytest.mark.parametrize("codec", ["gear_v22", "legacy"])
def test_every_flipped_byte_of_a_version_1_frame_is_found_or_changes_nothing(codec: str) -> None:
    """What may change nothing: the block tokens of a plane that has one block."""
    frame = bytes.fromhex(GOLDEN[1, codec])
    unpacked = unpack(frame)
    for index in range(len(frame)):
        damaged = bytearray(frame)
        damaged[index] ^= 0xFF
        try:
            again = unpack(bytes(damaged))
        except CodecError:
            continue
        assert index >= LAYOUTS[1].header_bytes
        assert again[1:] == unpacked[1:]
        assert np.array_equal(again.tensor, unpacked.tensor)


def test_version_1_is_read_and_never_written() -> None:
    assert FRAME[4] == max(LAYOUTS) == 2


GOLDEN = {
    (1, "gear_v22"): (
        "48324b560101010002000000060000000100000002000000050000000000000036000000f635b8b66c6b3145120000004000"
        "00010128b52ffd200c4d000018000102010005180212000000400000010128b52ffd200c4d0000180001020100051802"
    ),
    (1, "legacy"): (
        "48324b560102010102000000060000000100000002000000050000000000000027000000f635b8b633f4014828b52ffd200c"
        "4d000018000102010005180228b52ffd200c610000000102030405060708090a0b"
    ),
    (2, "gear_v22"): (
        "48324b56020101000200000006000000010000000200000005000000000000003e00000049f810ca8807d2b34aaed85f1500"
        "000004000001000028b52ffd200c610000000102030405060708090a0b1500000004000001000028b52ffd200c6100000001"
        "02030405060708090a0b"
    ),
    (2, "legacy"): (
        "48324b56020202010200000006000000010000000200000005000000000000002700000049f810ca8807d2b3a472ead028b5"
        "2ffd200c4d000018000102010005180228b52ffd200c610000000102030405060708090a0b"
    ),
}
"""By (frame version, codec)."""
