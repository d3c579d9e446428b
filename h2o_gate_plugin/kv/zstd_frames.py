"""zstd frames whose decoded length is known: one compressor and one decompressor per thread, both reused."""

from __future__ import annotations

import threading
from typing import Any

import zstandard

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.planes import U8

_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_EXPANSION = 2**15
"""A zstd block gives at most 128 KiB and takes at least 4 bytes (RFC 8878, 3.1.1.2): its header and one byte to repeat."""


def shortest_match_bytes(level: int) -> int:
    """No match in a frame of this level is shorter: zstd's searches up to level 9 take none under 4 bytes, the format none under 3."""
    return 4 if level <= 9 else 3


class ZstdFrames(threading.local):
    """Every thread that touches the object gets its own contexts (``threading.local`` runs ``__init__`` once per thread).

    Pickled as its level.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._level,)

    def compress(self, payload: U8) -> bytes:
        """One frame that carries its content size; ``payload`` is C-ordered, any shape. Releases the GIL."""
        return self._compressor.compress(payload.reshape(-1).data)

    def decompress(self, frame: bytes | memoryview, n_bytes: int, place: str) -> bytes:
        """Exactly ``n_bytes`` bytes from exactly one frame; raises CodecError otherwise.

        Nothing is allocated for a frame that declares another length, or one that no frame of its size can give.
        """
        try:
            declared = zstandard.frame_content_size(frame)
            if declared != n_bytes or n_bytes > _MAX_EXPANSION * len(frame):
                got = f"{declared} declared in {len(frame)} bytes"
                raise CodecError(f"{place}: zstd frame: expected {n_bytes} decoded bytes, got {got}; the payload is damaged")
            if n_bytes == 0:  # zstandard gives back nothing for it without reading on
                if frame_length(frame, place) != len(frame):
                    raise CodecError(f"{place}: zstd frame: expected one whole frame, got {len(frame)} bytes; the payload is damaged")
                return b""
            return self._decompressor.decompress(frame, max_output_size=n_bytes, allow_extra_data=False)
        except zstandard.ZstdError as err:
            raise CodecError(f"{place}: zstd frame: expected one whole frame, got {str(err)!r}; the payload is damaged") from err


def frame_length(data: bytes | memoryview, place: str) -> int:
    """Bytes of the zstd frame at the start of ``data``, decoding nothing (RFC 8878, 3.1.1); raises CodecError where none ends in it."""
    if bytes(data[:4]) != _MAGIC:
        raise CodecError(f"{place}: zstd frame: expected the magic {_MAGIC.hex()}, got {bytes(data[:4]).hex()!r}; the payload is damaged")
    try:
        end, has_checksum = zstandard.frame_header_size(data), zstandard.get_frame_parameters(data).has_checksum
    except zstandard.ZstdError as err:
        raise CodecError(f"{place}: zstd frame: expected a whole header, got {str(err)!r}; the payload is cut off or damaged") from err
    is_last = False
    while not is_last:
        header = int.from_bytes(data[end : end + 3], "little")
        is_last, kind, n_bytes = bool(header & 1), header >> 1 & 3, header >> 3
        end += 3 + (1 if kind == _RLE else n_bytes)
        if end > len(data) or kind == _RESERVED:
            raise CodecError(f"{place}: zstd frame: expected whole blocks, got {len(data)} bytes; the payload is cut off or damaged")
    end += 4 if has_checksum else 0
    if end > len(data):
        raise CodecError(f"{place}: zstd frame: expected {end} bytes, got {len(data)}; the payload is cut off")
    return end


_RLE, _RESERVED = 1, 3
"""Kinds of block: one byte repeated, and the one that has no meaning yet."""
