"""Codec 1, ``fp16_gear_predictive_v3``: byte planes, one predictor per block of tokens, one zstd frame per plane.

A payload is the high plane, then the low plane; a plane is an 8-byte header ``<IHBB`` (zstd frame bytes, block tokens, flags,
layout version), one predictor mode byte per block, and the zstd frame. So its length is what the offline evaluator's
``adaptive_v22`` arithmetic counts (llm_bench contract).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.planes import U8, U16, Part, Shape, bitshuffle, bitunshuffle, checked_tensor, join_planes, split_planes
from h2o_gate_plugin.kv.predictors import Predictor, predictor_by_mode, predictors_by_name
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames
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
        self._predictors: dict[Part, tuple[tuple[Predictor, ...], tuple[Predictor, ...]]] = {
            "k": _high_and_low(k_predictors, k_lo_predictors),
            "v": _high_and_low(v_predictors, v_lo_predictors),
        }
        self._block_tokens = block_tokens
        self._bitshuffle = bitshuffle
        self._zstd = ZstdFrames(level)

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → payload; raises CodecError for another dtype or rank."""
        planes = split_planes(checked_tensor(tensor, _PLACE))
        return b"".join(self._encode_plane(plane, predictors) for plane, predictors in zip(planes, self._predictors[part], strict=True))

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """The exact tensor; raises CodecError for anything but a whole payload of that shape."""
        high, rest = self._decode_plane(memoryview(payload), shape)
        low, rest = self._decode_plane(rest, shape)
        if rest:
            raise CodecError(f"{_PLACE}: payload: expected nothing after the low plane, got {len(rest)} bytes; the payload is damaged")
        return join_planes(high, low)

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The predictor names that the payload stores for the high and for the low plane, one per block."""
        _, high_modes, _, rest = _plane_parts(memoryview(payload), n_seq)
        _, low_modes, _, _ = _plane_parts(rest, n_seq)
        return tuple(p.name for p in high_modes), tuple(p.name for p in low_modes)

    def _payload(self, plane: U8) -> U8:
        return bitshuffle(plane) if self._bitshuffle else plane

    def _encode_plane(self, plane: U8, predictors: tuple[Predictor, ...]) -> bytes:
        candidates = [predictor.forward(plane, self._block_tokens) for predictor in predictors]
        starts = range(0, len(plane), self._block_tokens)
        if len(starts) == 1:  # the trial is the frame
            frames = [self._zstd.compress(self._payload(candidate)) for candidate in candidates]
            choice = min(range(len(frames)), key=lambda index: len(frames[index]))
            return self._plane_bytes(bytes([predictors[choice].mode]), frames[choice])
        choices = [self._smallest([candidate[start : start + self._block_tokens] for candidate in candidates]) for start in starts]
        joined = np.empty_like(plane)
        for start, choice in zip(starts, choices, strict=True):
            joined[start : start + self._block_tokens] = candidates[choice][start : start + self._block_tokens]
        return self._plane_bytes(bytes(predictors[choice].mode for choice in choices), self._zstd.compress(self._payload(joined)))

    def _smallest(self, blocks: list[U8]) -> int:
        """Index of the block with the smallest zstd frame; ties go to the first."""
        if len(blocks) == 1:
            return 0
        sizes = [len(self._zstd.compress(self._payload(block))) for block in blocks]
        return sizes.index(min(sizes))

    def _plane_bytes(self, modes: bytes, frame: bytes) -> bytes:
        flags = _FLAG_BITSHUFFLE if self._bitshuffle else 0
        return _HEADER.pack(len(frame), self._block_tokens, flags, _LAYOUT) + modes + frame

    def _decode_plane(self, data: memoryview, shape: Shape) -> tuple[U8, memoryview]:
        n_seq, n_kv_head, head_dim = shape
        header, modes, frame, rest = _plane_parts(data, n_seq)
        block_tokens, flags = header
        decoded = np.frombuffer(self._zstd.decompress(frame, n_seq * n_kv_head * head_dim, _PLACE), dtype=np.uint8)
        residuals = (bitunshuffle(decoded) if flags & _FLAG_BITSHUFFLE else decoded).reshape(shape)
        plane = np.empty(shape, dtype=np.uint8)
        for index, predictor in enumerate(modes):
            tokens = slice(index * block_tokens, (index + 1) * block_tokens)
            plane[tokens] = predictor.inverse(residuals[tokens])
        return plane, rest


def _high_and_low(high: Sequence[str], low: Sequence[str] | None) -> tuple[tuple[Predictor, ...], tuple[Predictor, ...]]:
    return predictors_by_name(high, _PLACE), predictors_by_name(high if low is None else low, _PLACE)


def _plane_parts(data: memoryview, n_seq: int) -> tuple[tuple[int, int], tuple[Predictor, ...], memoryview, memoryview]:
    """``((block_tokens, flags), predictors, zstd frame, rest)``; raises CodecError for a header that cannot be."""
    if len(data) < _HEADER.size:
        raise CodecError(f"{_PLACE}: plane header: expected {_HEADER.size} bytes, got {len(data)}; the payload is cut off")
    frame_bytes, block_tokens, flags, layout = _HEADER.unpack_from(data)
    if layout != _LAYOUT or flags & ~_FLAG_BITSHUFFLE or block_tokens == 0:
        got = f"layout {layout}, flags {flags}, {block_tokens} block tokens"
        raise CodecError(
            f"{_PLACE}: plane header: expected layout {_LAYOUT}, flags 0 or 1, >= 1 block tokens, got {got}; the payload is damaged"
        )
    frame_start = _HEADER.size + -(-n_seq // block_tokens)
    if len(data) < frame_start + frame_bytes:
        raise CodecError(f"{_PLACE}: plane: expected {frame_start + frame_bytes} bytes, got {len(data)}; the payload is cut off")
    modes = tuple(predictor_by_mode(mode, _PLACE) for mode in data[_HEADER.size : frame_start])
    end = frame_start + frame_bytes
    return (block_tokens, flags), modes, data[frame_start:end], data[end:]
