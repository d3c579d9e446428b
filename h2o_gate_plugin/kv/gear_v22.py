"""Codec 1, ``fp16_gear_predictive_v3``: byte planes, one predictor per block of tokens, one zstd frame per plane.

A payload is the high plane, then the low plane; a plane is an 8-byte header ``<IHBB`` (zstd frame bytes, block tokens, flags,
layout version), one predictor mode byte per block, and the zstd frame. So its length is what the offline evaluator's
``adaptive_v22`` arithmetic counts (llm_bench contract).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec_kernels import undo, undo_and_join
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
    split_planes,
)
from h2o_gate_plugin.kv.predictors import modes_of, predictor_by_mode, predictors_by_name, residuals
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames, shortest_match_bytes
from h2o_gate_plugin.kv_options import K_PREDICTORS, V_PREDICTORS

_HEADER = struct.Struct("<IHBB")
_LAYOUT = 1
_FLAG_BITSHUFFLE = 1
_PLACE = "gear_v22"


class GearV22:
    """Safe to share between threads. What a payload needs to be decoded stands in the payload, not in the settings here."""

    name = "fp16_gear_predictive_v3"
    codec_id = 1

    def __init__(
        self,
        k_predictors: Sequence[str] = K_PREDICTORS,
        v_predictors: Sequence[str] = V_PREDICTORS,
        block_tokens: int = 64,
        level: int = 3,
        *,
        k_lo_predictors: Sequence[str] | None = None,
        v_lo_predictors: Sequence[str] | None = None,
        bitshuffle: bool = False,
    ) -> None:
        """``…_lo_predictors``: for the low plane, None = as for the high one. Raises CodecError for a setting out of range."""
        if not 1 <= block_tokens <= 0xFFFF:
            raise CodecError(f"{_PLACE}: block_tokens: expected 1 to 65535 (tokens), got {block_tokens}; choose a smaller block")
        if not 1 <= level <= 22:
            raise CodecError(f"{_PLACE}: level: expected 1 to 22 (zstd), got {level}; 3 is the contract's")
        self._modes: dict[Part, tuple[U8, U8]] = {
            "k": _high_and_low(k_predictors, k_lo_predictors),
            "v": _high_and_low(v_predictors, v_lo_predictors),
        }
        self._block_tokens = block_tokens
        self._bitshuffle = bitshuffle
        self._shortest_match_bytes = None if bitshuffle else shortest_match_bytes(level)
        self._zstd = ZstdFrames(level)

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → payload; raises CodecError for another dtype or rank."""
        high, low = split_planes(checked_tensor(tensor, _PLACE))
        high_modes, low_modes = self._modes[part]
        return self._encode_plane(high, high_modes) + self._encode_plane(low, low_modes)

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """The exact tensor; raises CodecError for anything but a whole payload of that shape."""
        n_bytes, n_seq = checked_size(shape, _PLACE), shape[0]
        high, rest = _read_plane(memoryview(payload), n_seq)
        low, rest = _read_plane(rest, n_seq)
        if rest:
            raise CodecError(f"{_PLACE}: payload: expected nothing after the low plane, got {len(rest)} bytes; the payload is damaged")
        high_bytes, low_bytes = self._residuals(high, n_bytes), self._residuals(low, n_bytes)
        if not n_bytes:  # a loop over tokens or a row of no bytes may still be long
            return np.empty(shape, dtype=np.uint16)
        if any(low.modes):
            low_plane = np.empty(shape, dtype=np.uint8)
            undo(low_bytes, _bytes(low.modes), low.block_tokens, low_plane)
            low_bytes = low_plane.reshape(-1)
        words = np.empty(shape, dtype=np.uint16)
        undo_and_join(high_bytes, _bytes(high.modes), high.block_tokens, low_bytes, words)
        return words

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The predictor names that the payload stores for the high and for the low plane, one per block."""
        high, rest = _read_plane(memoryview(payload), n_seq)
        low, _ = _read_plane(rest, n_seq)
        return _names(high.modes), _names(low.modes)

    def stored_planes(self, payload: bytes, n_seq: int) -> tuple[StoredPlane, StoredPlane]:
        """The high and the low plane of a payload that these settings wrote."""
        high, rest = _read_plane(memoryview(payload), n_seq)
        low, end = _read_plane(rest, n_seq)
        return self._stored(high, len(payload) - len(rest)), self._stored(low, len(rest) - len(end))

    def _stored(self, plane: _Plane, n_bytes: int) -> StoredPlane:
        return StoredPlane(n_bytes, plane.block_tokens, _names(plane.modes), self._shortest_match_bytes)

    def _encode_plane(self, plane: U8, modes: U8) -> bytes:
        n_seq, n_kv_head, head_dim = plane.shape
        step = self._block_tokens * n_kv_head * head_dim
        blocks = [slice(i * step, (i + 1) * step) for i in range(-(-n_seq // self._block_tokens))]
        candidates = residuals(plane, modes, self._block_tokens)  # [n_mode, n_bytes]
        if len(blocks) == 1:  # the trial is the frame
            frames = [self._compress(candidate) for candidate in candidates]
            frame = min(frames, key=len)
            choices = [frames.index(frame)]
        else:
            choices = [self._smallest(candidates[:, block]) for block in blocks]
            chosen = candidates[0]
            for block, choice in zip(blocks, choices, strict=True):
                if choice:
                    chosen[block] = candidates[choice, block]
            frame = self._compress(chosen)
        flags = _FLAG_BITSHUFFLE if self._bitshuffle else 0
        return _HEADER.pack(len(frame), self._block_tokens, flags, _LAYOUT) + modes[choices].tobytes() + frame

    def _smallest(self, candidates: U8) -> int:
        """Index of the row with the smallest zstd frame; ties go to the first."""
        if len(candidates) == 1:
            return 0
        sizes = [len(self._compress(candidate)) for candidate in candidates]
        return sizes.index(min(sizes))

    def _compress(self, plane: U8) -> bytes:
        return self._zstd.compress(bitshuffle(plane) if self._bitshuffle else plane)

    def _residuals(self, plane: _Plane, n_bytes: int) -> U8:
        decoded = _bytes(self._zstd.decompress(plane.frame, n_bytes, _PLACE))
        return bitunshuffle(decoded) if plane.flags & _FLAG_BITSHUFFLE else decoded


class _Plane(NamedTuple):
    """One plane of a payload, its header checked. ``modes``: one per block. (A NamedTuple is made in a third of a dataclass's time.)"""

    block_tokens: int
    flags: int
    modes: bytes
    frame: memoryview


def _read_plane(data: memoryview, n_seq: int) -> tuple[_Plane, memoryview]:
    """The plane at the start of ``data`` and the rest; raises CodecError for a header that cannot be."""
    if len(data) < _HEADER.size:
        raise CodecError(f"{_PLACE}: plane header: expected {_HEADER.size} bytes, got {len(data)}; the payload is cut off")
    frame_bytes, block_tokens, flags, layout = _HEADER.unpack_from(data)
    if layout != _LAYOUT or flags & ~_FLAG_BITSHUFFLE or block_tokens == 0:
        got = f"layout {layout}, flags {flags}, {block_tokens} block tokens"
        raise CodecError(
            f"{_PLACE}: plane header: expected layout {_LAYOUT}, flags 0 or 1, >= 1 block tokens, got {got}; the payload is damaged"
        )
    start = _HEADER.size + -(-n_seq // block_tokens)
    end = start + frame_bytes
    if len(data) < end:
        raise CodecError(f"{_PLACE}: plane: expected {end} bytes, got {len(data)}; the payload is cut off")
    modes = bytes(data[_HEADER.size : start])
    predictor_by_mode(max(modes, default=0), _PLACE)
    return _Plane(block_tokens, flags, modes, data[start:end]), data[end:]


def _high_and_low(high: Sequence[str], low: Sequence[str] | None) -> tuple[U8, U8]:
    return modes_of(predictors_by_name(high, _PLACE)), modes_of(predictors_by_name(high if low is None else low, _PLACE))


def _names(modes: bytes) -> tuple[str, ...]:
    return tuple(predictor_by_mode(mode, _PLACE).name for mode in modes)


def _bytes(data: bytes) -> U8:
    return np.frombuffer(data, dtype=np.uint8)
