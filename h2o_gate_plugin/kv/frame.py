"""A stored KV block: a fixed header that says what the payload is, then the payload.

Header, little endian: magic ``H2KV``, version u8, codec id u8, dtype u8, part u8, layer u32, n_seq u32, n_kv_head u32, head_dim
u32, token_start u64, payload bytes u32, XXH3-64 of the decoded bytes u64, CRC-32 of all header bytes before it. The header is
checked before anything is decoded, the decoded bytes after it: a frame gives the exact tensor or a CodecError. Frames live in
memory only, so no older version is read.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Codec, Part, Shape, codec_by_id
from h2o_gate_plugin.kv.planes import MAX_TENSOR_ELEMENTS, checked_tensor
from h2o_gate_plugin.kv_options import KvDtype

_FIELDS = struct.Struct("<4sBBBBIIIIQIQ")
_CRC = struct.Struct("<I")
_MAGIC = b"H2KV"
_VERSION = 2
_DTYPES: dict[int, KvDtype] = {1: "fp16", 2: "bf16"}
_PARTS: dict[int, Part] = {0: "k", 1: "v"}
_DTYPE_CODES = {name: code for code, name in _DTYPES.items()}
_PART_CODES = {name: code for code, name in _PARTS.items()}
_PLACE = "frame"

HEADER_BYTES = _FIELDS.size + _CRC.size


class FrameHeader(NamedTuple):
    """``token_start``: index of the block's first token; the block covers ``[token_start, token_start + shape[0])``.

    A NamedTuple, as `UnpackedFrame`: one is made per block and token, in a third of a frozen dataclass's time.
    """

    codec_id: int
    dtype: KvDtype
    part: Part
    layer: int
    shape: Shape
    token_start: int
    payload_bytes: int
    content_hash: int


class UnpackedFrame(NamedTuple):
    """``tensor``: u16 ``[n_seq, n_kv_head, head_dim]``, bit-equal to what was packed."""

    tensor: U16
    layer: int
    part: Part
    token_start: int
    dtype: KvDtype


def pack(codec: Codec, tensor: U16, layer: int, part: Part, token_start: int, dtype: KvDtype = "fp16") -> bytes:
    """Encode u16 ``[n_seq, n_kv_head, head_dim]`` and put the header before it; raises CodecError for values that no header holds."""
    tensor = checked_tensor(tensor, _PLACE)
    payload = codec.encode(tensor, part)
    if dtype not in _DTYPE_CODES or part not in _PART_CODES:
        raise CodecError(f"{_PLACE}: dtype and part: expected fp16 or bf16 and k or v, got {dtype!r} and {part!r}; name a stored kind")
    try:
        fields = _FIELDS.pack(
            _MAGIC, _VERSION, codec.codec_id, _DTYPE_CODES[dtype], _PART_CODES[part], layer, *tensor.shape, token_start,
            len(payload), xxh3_64_intdigest(tensor.data),
        )  # fmt: skip
    except struct.error as err:
        got = f"codec {codec.codec_id}, layer {layer}, token_start {token_start}, {len(payload)} payload bytes"
        raise CodecError(f"{_PLACE}: header: expected unsigned fields in range, got {got}; check the caller") from err
    return fields + _CRC.pack(zlib.crc32(fields)) + payload


def read_header(frame: bytes) -> FrameHeader:
    """Check and read the header, decoding nothing; raises CodecError when the header or the frame's length is wrong."""
    if len(frame) < HEADER_BYTES:
        raise CodecError(f"{_PLACE}: header: expected {HEADER_BYTES} bytes, got {len(frame)}; the frame is cut off")
    magic, version, codec_id, dtype, part, layer, n_seq, n_kv_head, head_dim, token_start, payload_bytes, content_hash = (
        _FIELDS.unpack_from(frame)
    )
    if magic != _MAGIC or version != _VERSION:
        raise CodecError(
            f"{_PLACE}: magic and version: expected {_MAGIC!r} {_VERSION}, got {magic!r} {version}; not a KV frame of this release"
        )
    if _CRC.unpack_from(frame, _FIELDS.size)[0] != zlib.crc32(frame[: _FIELDS.size]):
        raise CodecError(f"{_PLACE}: header: expected a matching CRC-32, got another; the frame is damaged")
    if dtype not in _DTYPES or part not in _PARTS or n_seq * n_kv_head * head_dim > MAX_TENSOR_ELEMENTS:
        got = f"dtype {dtype}, part {part}, shape {(n_seq, n_kv_head, head_dim)}"
        raise CodecError(
            f"{_PLACE}: header: expected a known dtype and part and a shape in range, got {got}; the frame is newer than this release"
        )
    if len(frame) != HEADER_BYTES + payload_bytes:
        raise CodecError(
            f"{_PLACE}: length: expected {HEADER_BYTES + payload_bytes} bytes, got {len(frame)}; the frame is cut off or has a tail"
        )
    return FrameHeader(
        codec_id, _DTYPES[dtype], _PARTS[part], layer, (n_seq, n_kv_head, head_dim), token_start, payload_bytes, content_hash
    )


def unpack(frame: bytes, codec: Codec | None = None) -> UnpackedFrame:
    """Decode and check a frame. ``codec``: the decoder to use, which must have the frame's codec id; None takes it from the registry.

    Raises CodecError for a damaged header or payload, another codec's frame, or decoded bytes whose checksum differs.
    """
    header = read_header(frame)
    decoder = codec_by_id(header.codec_id) if codec is None else codec
    if decoder.codec_id != header.codec_id:
        raise CodecError(
            f"{_PLACE}: codec: expected id {decoder.codec_id} ({decoder.name}), got {header.codec_id}; pass the codec that packed it"
        )
    tensor = decoder.decode(frame[HEADER_BYTES:], header.shape, header.part)
    if tensor.shape != header.shape or xxh3_64_intdigest(checked_tensor(tensor, _PLACE).data) != header.content_hash:
        place = f"layer {header.layer} {header.part} tokens {header.token_start}+{header.shape[0]}"
        raise CodecError(
            f"{_PLACE}: {place}: expected decoded bytes with the stored XXH3-64, got others; the frame or its codec is damaged"
        )
    return UnpackedFrame(tensor, header.layer, header.part, header.token_start, header.dtype)
