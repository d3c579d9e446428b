"""Codec 2, ``legacy_delta``: high plane as delta along seq, low plane raw, one zstd frame each and nothing around them.

The llm_bench contract's codec mode ``legacy``. A payload does not say whether it was bit shuffled: the decoder must be told.
"""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.planes import (
    U8,
    U16,
    Part,
    Shape,
    StoredPlane,
    bitshuffle,
    bitunshuffle,
    checked_size,
    checked_tensor,
    join_planes,
    split_planes,
)
from h2o_gate_plugin.kv.predictors import Predictor, predictors_by_name
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames, frame_length, shortest_match_bytes

_PLACE = "legacy_delta"


class LegacyDelta:
    """Safe to share between threads."""

    name = "legacy_delta"
    codec_id = 2

    def __init__(self, level: int = 3, *, bitshuffle: bool = False) -> None:
        if not 1 <= level <= 22:
            raise CodecError(f"{_PLACE}: level: expected 1 to 22 (zstd), got {level}; 3 is the contract's")
        self._bitshuffle = bitshuffle
        self._shortest_match_bytes = None if bitshuffle else shortest_match_bytes(level)
        self._zstd = ZstdFrames(level)
        self._delta: Predictor = predictors_by_name(("delta_seq",), _PLACE)[0]

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → two zstd frames; raises CodecError for another dtype or rank."""
        high, low = split_planes(checked_tensor(tensor, _PLACE))
        return self._compress(self._delta.forward(high, max(1, len(high)))) + self._compress(low)

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """The exact tensor; raises CodecError for anything but two whole frames of that shape."""
        n_bytes = checked_size(shape, _PLACE)
        frames = _two_frames(payload)
        high, low = (self._restore(self._zstd.decompress(frame, n_bytes, _PLACE), shape) for frame in frames)
        if not n_bytes:
            return np.empty(shape, dtype=np.uint16)
        return join_planes(self._delta.inverse(high), low)

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The one fixed predictor of the high and of the low plane."""
        return ("delta_seq",), ("raw",)

    def stored_planes(self, payload: bytes, n_seq: int) -> tuple[StoredPlane, StoredPlane]:
        """The high and the low plane of a payload that these settings wrote; each is one block."""
        frames = _two_frames(payload)
        high, low = (
            StoredPlane(len(frame), max(1, n_seq), modes, self._shortest_match_bytes)
            for frame, modes in zip(frames, self.plane_modes(payload, n_seq), strict=True)
        )
        return high, low

    def _compress(self, plane: U8) -> bytes:
        return self._zstd.compress(bitshuffle(plane) if self._bitshuffle else plane)

    def _restore(self, decoded: bytes, shape: Shape) -> U8:
        plane = np.frombuffer(decoded, dtype=np.uint8)
        return (bitunshuffle(plane) if self._bitshuffle else plane).reshape(shape)


def _two_frames(payload: bytes) -> tuple[bytes, bytes]:
    """Cut the payload after its first zstd frame; the second frame is checked by who decodes it."""
    cut = frame_length(payload, _PLACE)
    return payload[:cut], payload[cut:]
