"""A stored KV block: a fixed header that says what the payload is, then the payload. docs/frame-format.md has it byte by byte.

The header is checked before anything is decoded, the decoded bytes after it: a frame gives the exact tensor or a CodecError. Version 2
is written; version 1, whose content checksum is a CRC-32, is still read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Codec, Part, Shape, codec_by_id
from h2o_gate_plugin.kv.planes import checked_size, checked_tensor
from h2o_gate_plugin.kv_options import KvDtype

_CRC = struct.Struct("<I")
_MAGIC = b"H2KV"
_VERSION_AT = 4
_PARTS: dict[int, Part] = {0: "k", 1: "v"}
_PART_CODES = {name: code for code, name in _PARTS.items()}
_PLACE = "frame"
_PLACE_FIELDS = (
    ("magic", "4s"), ("version", "B"), ("codec id", "B"), ("dtype", "B"), ("part", "B"), ("layer", "I"), ("n_seq", "I"), ("n_kv_head", "I"),
    ("head_dim", "I"), ("token_start", "Q"), ("payload bytes", "I"),
)  # fmt: skip


@dataclass(frozen=True)
class FrameLayout:
    """One version's header: ``fields`` as (name, `struct` code), little endian without padding, then a CRC-32 of all of them."""

    version: int
    fields: tuple[tuple[str, str], ...]
    dtypes: dict[int, KvDtype]
    checksum_name: str
    checksum: Callable[[Any], int]
    packing: struct.Struct

    @property
    def header_bytes(self) -> int:
        return self.packing.size + _CRC.size


def _layout(
    version: int, checksum_code: str, dtypes: dict[int, KvDtype], checksum_name: str, checksum: Callable[[Any], int]
) -> FrameLayout:
    fields = (*_PLACE_FIELDS, ("content checksum", checksum_code))
    packing = struct.Struct("<" + "".join(code for _, code in fields))
    return FrameLayout(version, fields, dtypes, checksum_name, checksum, packing)


def _xxh3_64(data: Any) -> int:
    return xxh3_64_intdigest(data)


LAYOUTS = {
    1: _layout(1, "I", {1: "fp16"}, "CRC-32", zlib.crc32),
    2: _layout(2, "Q", {1: "fp16", 2: "bf16"}, "XXH3-64", _xxh3_64),
}
"""By version. One that frames were written in stays."""
_WRITTEN = LAYOUTS[max(LAYOUTS)]
_DTYPE_CODES = {name: code for code, name in _WRITTEN.dtypes.items()}

HEADER_BYTES = _WRITTEN.header_bytes
"""Of a frame that `pack` writes."""


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
    layout: FrameLayout


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
        fields = _WRITTEN.packing.pack(
            _MAGIC, _WRITTEN.version, codec.codec_id, _DTYPE_CODES[dtype], _PART_CODES[part], layer, *tensor.shape, token_start,
            len(payload), _WRITTEN.checksum(tensor.data),
        )  # fmt: skip
    except struct.error as err:
        got = f"codec {codec.codec_id}, layer {layer}, token_start {token_start}, {len(payload)} payload bytes"
        raise CodecError(f"{_PLACE}: header: expected unsigned fields in range, got {got}; check the caller") from err
    return fields + _CRC.pack(zlib.crc32(fields)) + payload


def read_header(frame: bytes) -> FrameHeader:
    """Check and read the header, decoding nothing; raises CodecError when the header or the frame's length is wrong."""
    layout = _layout_of(frame)
    fields_bytes, header_bytes = layout.packing.size, layout.header_bytes
    if len(frame) < header_bytes:
        raise CodecError(f"{_PLACE}: header: expected {header_bytes} bytes, got {len(frame)}; the frame is cut off")
    if _CRC.unpack_from(frame, fields_bytes)[0] != zlib.crc32(frame[:fields_bytes]):
        raise CodecError(f"{_PLACE}: header: expected a matching CRC-32, got another; the frame is damaged")
    _, _, codec_id, dtype, part, layer, *sizes, token_start, payload_bytes, content_hash = layout.packing.unpack_from(frame)
    shape = (sizes[0], sizes[1], sizes[2])
    if dtype not in layout.dtypes or part not in _PARTS:
        got = f"dtype {dtype}, part {part}"
        raise CodecError(f"{_PLACE}: header: expected a known dtype and part, got {got}; the frame is newer than this release")
    checked_size(shape, _PLACE)
    if len(frame) != header_bytes + payload_bytes:
        raise CodecError(
            f"{_PLACE}: length: expected {header_bytes + payload_bytes} bytes, got {len(frame)}; the frame is cut off or has a tail"
        )
    return FrameHeader(codec_id, layout.dtypes[dtype], _PARTS[part], layer, shape, token_start, payload_bytes, content_hash, layout)


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
    layout = header.layout
    tensor = decoder.decode(frame[layout.header_bytes :], header.shape, header.part)
    if tensor.shape != header.shape or layout.checksum(checked_tensor(tensor, _PLACE).data) != header.content_hash:
        place = f"layer {header.layer} {header.part} tokens {header.token_start}+{header.shape[0]}"
        expected = f"decoded bytes with the stored {layout.checksum_name}"
        raise CodecError(f"{_PLACE}: {place}: expected {expected}, got others; the frame or its codec is damaged")
    return UnpackedFrame(tensor, header.layer, header.part, header.token_start, header.dtype)


def _layout_of(frame: bytes) -> FrameLayout:
    """Raises CodecError for what is no frame of a known version."""
    if len(frame) <= _VERSION_AT:
        raise CodecError(f"{_PLACE}: header: expected at least {_VERSION_AT + 1} bytes, got {len(frame)}; the frame is cut off")
    layout = LAYOUTS.get(frame[_VERSION_AT])
    if layout is None or not frame.startswith(_MAGIC):
        known, got = " or ".join(map(str, LAYOUTS)), f"{frame[:_VERSION_AT]!r} {frame[_VERSION_AT]}"
        raise CodecError(f"{_PLACE}: magic and version: expected {_MAGIC!r} {known}, got {got}; not a KV frame of this release")
    return layout
