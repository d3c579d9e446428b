"""A frame gives the exact tensor and says where it belongs, or raises."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Part, Shape
from h2o_gate_plugin.kv.frame import HEADER_BYTES, pack, read_header, unpack
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
        (4, b"\x01", "expected b'H2KV' 2, got b'H2KV' 1"),
        (5, b"\x09", "codec: id: expected one of 1, 2, 3, got 9"),
        (6, b"\x07", "dtype 7"),
        (7, b"\x02", "part 2"),
        (12, struct.pack("<III", 2**20, 2**20, 2**20), "shape in range"),
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


def test_a_stored_frame_still_decodes() -> None:
    """Written by frame version 2 and layout version 1; zstd may compress differently one day, but this must always decode."""
    stored = bytes.fromhex(GOLDEN)
    expected = (np.arange(12, dtype=np.uint16) * 257).reshape(6, 1, 2)
    unpacked = unpack(stored)
    assert np.array_equal(unpacked.tensor, expected)
    assert (unpacked.layer, unpacked.part, unpacked.token_start) == (2, "k", 5)


GOLDEN = (
    "48324b56020101000200000006000000010000000200000005000000000000003e00000049f810ca8807d2b34aaed85f1500"
    "000004000001000028b52ffd200c610000000102030405060708090a0b1500000004000001000028b52ffd200c6100000001"
    "02030405060708090a0b"
)
