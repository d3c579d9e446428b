"""zstd frames whose decoded length is known: one compressor and one decompressor per thread, both reused."""

from __future__ import annotations

import threading
from typing import Any

import zstandard

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.planes import U8


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

    def compress(self, payload: U8 | memoryview) -> bytes:
        """One frame that carries its content size; ``payload`` is C-ordered, an array of any shape. Releases the GIL."""
        return self._compressor.compress(payload if isinstance(payload, memoryview) else payload.reshape(-1).data)

    def decompress(self, frame: bytes | memoryview, n_bytes: int, place: str) -> bytes:
        """Exactly ``n_bytes`` bytes from exactly one frame; raises CodecError otherwise, before anything is allocated."""
        try:
            declared = zstandard.frame_content_size(frame)
            if declared != n_bytes:
                raise CodecError(f"{place}: zstd frame: expected {n_bytes} decoded bytes, got {declared} declared; the payload is damaged")
            return self._decompressor.decompress(frame, max_output_size=n_bytes, allow_extra_data=False)
        except zstandard.ZstdError as err:
            raise CodecError(f"{place}: zstd frame: expected one whole frame, got {str(err)!r}; the payload is damaged") from err
