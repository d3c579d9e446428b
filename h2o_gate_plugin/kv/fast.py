"""Codec 3, ``kv_fast``: the upper bits of every word rANS-coded against what its channel and an earlier row let expect, the low bits
as they are.

A word of fp16 is sign, exponent and two mantissa bits, then 8 low bits; of bf16 the same, then 5. The low bits are noise to every model.
A block of tokens tells each channel's deviation, mean and weight, and each row's reference, gain and class of what is left; the
tables of symbols (`fast_tables`) are fixed. docs/frame-format.md has the payload byte by byte.
"""

from __future__ import annotations

import struct

import numpy as np

from h2o_gate_plugin.errors import CodecError, nearest
from h2o_gate_plugin.kv.fast_decode import CHANNELS, DONE, REST, ROWS, STREAM, decode, low_bytes, padding
from h2o_gate_plugin.kv.fast_encode import encode, every_low_bits, longest, uneven_low_bits
from h2o_gate_plugin.kv.fast_tables import tables
from h2o_gate_plugin.kv.planes import U8, U16, Part, Shape, checked_size, checked_tensor
from h2o_gate_plugin.kv.words import typed
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames
from h2o_gate_plugin.kv_options import KvDtype

_HEADER = struct.Struct("<BBB")
_FRAME_BYTES = struct.Struct("<I")
_LAYOUT = 1
_FLAG_BF16, _FLAG_WEIGHTED, _FLAG_ADJACENT, _FLAG_LOW_FRAME, _FLAG_RAW = 1, 2, 4, 8, 16
_LEVEL = 3
_LOW_BITS: dict[KvDtype, int] = {"fp16": 8, "bf16": 5}
_PLACE = "kv_fast"
_NO_LOW: U8 = np.frombuffer(b"", dtype=np.uint8)  # read-only as any payload, so that one compilation serves both
_PROBLEMS = {
    CHANNELS: "channels: expected deviations in range within the payload",
    ROWS: "rows: expected references to earlier rows within the payload",
    STREAM: "coded words: expected as many as the rows take",
    REST: "coded words: expected the states to end where they began and nothing left over",
}


class KvFast:
    """Safe to share between threads. What a payload needs to be decoded stands in the payload, not in the settings here."""

    name = "kv_fast"
    codec_id = 3

    def __init__(self, dtype: KvDtype = "fp16") -> None:
        """``dtype``: what the words to encode are; payloads of both decode. Raises CodecError for another."""
        if dtype not in _LOW_BITS:
            raise CodecError(f"{_PLACE}: dtype: expected fp16 or bf16, got {dtype!r}; {nearest(dtype, tuple(_LOW_BITS))}")
        self._dtype = dtype
        self._zstd = ZstdFrames(_LEVEL)

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → payload; raises CodecError for another dtype or rank.

        K (after RoPE) refers to the row before and takes over what each channel's weight says; V looks for the nearest earlier row.
        """
        tensor = checked_tensor(tensor, _PLACE)
        flags = _FLAG_BF16 if self._dtype == "bf16" else 0
        if tensor.size == 0:
            return _HEADER.pack(_LAYOUT, flags | _FLAG_RAW, 0)
        words, low_bits, near = typed(tensor, self._dtype).reshape(len(tensor), -1), _LOW_BITS[self._dtype], part == "k"
        low_frame = self._low_frame(words, low_bits)
        start, t = b"" if low_frame is None else _FRAME_BYTES.pack(len(low_frame)) + low_frame, tables()
        n_header = _HEADER.size + len(start)
        out = np.empty(longest(*words.shape, low_bits, n_header), dtype=np.uint8)
        end, k_scale, k_mean = encode(
            words, low_bits, near, near, n_header, low_frame is not None, t.roots, t.inverse_roots, t.steps, t.codes, t.reciprocals, out
        )
        if end >= _HEADER.size + tensor.nbytes:
            return _HEADER.pack(_LAYOUT, flags | _FLAG_RAW, 0) + tensor.tobytes()
        flags |= (_FLAG_WEIGHTED | _FLAG_ADJACENT if near else 0) | (0 if low_frame is None else _FLAG_LOW_FRAME)
        return _HEADER.pack(_LAYOUT, flags, k_scale | k_mean << 4) + start + out[n_header:end].tobytes()

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """The exact tensor; raises CodecError for anything but a whole payload of that shape."""
        checked_size(shape, _PLACE)
        flags, k_scale, k_mean = _read_header(payload)
        n_seq, n_kv_head, head_dim = shape
        n = n_kv_head * head_dim
        if flags & _FLAG_RAW or n_seq * n == 0:
            return _raw_words(payload, flags, shape)
        if 2 * n + 3 * n_seq > 8 * len(payload):  # a channel takes 2 bits, a row 3
            raise CodecError(f"{_PLACE}: payload: expected parameters of {n_seq} rows of {n}, got {len(payload)} bytes; it is damaged")
        low_bits = _LOW_BITS["bf16" if flags & _FLAG_BF16 else "fp16"]
        low, n_header = self._read_low(payload, n_seq * low_bytes(n, low_bits)) if flags & _FLAG_LOW_FRAME else (_NO_LOW, _HEADER.size)
        tensor, t = np.empty(shape, dtype=np.uint16), tables()
        words = typed(tensor, "fp16" if low_bits == 8 else "bf16").reshape(n_seq, n)
        data = np.frombuffer(b"".join((payload, bytes(padding(n, len(payload))))), dtype=np.uint8)
        problem = decode(
            data, len(payload), n_header, low, bool(flags & _FLAG_WEIGHTED), bool(flags & _FLAG_ADJACENT), k_scale, k_mean, low_bits,
            t.roots, t.inverse_roots, t.steps, t.slots, words,
        )  # fmt: skip
        if problem != DONE:
            raise CodecError(f"{_PLACE}: {_PROBLEMS[problem]}, got other bits for shape {shape}; the payload is damaged")
        return tensor

    def _low_frame(self, words: U16, low_bits: int) -> bytes | None:
        """The low bits of all rows as a zstd frame, where they are uneven enough to be worth it (words of coarser steps)."""
        if not uneven_low_bits(words, low_bits):
            return None
        low = np.empty(len(words) * low_bytes(words.shape[1], low_bits) + 1, dtype=np.uint8)
        every_low_bits(words, low_bits, low)
        frame = self._zstd.compress(low[:-1])
        return frame if len(frame) < 0.9 * (len(low) - 1) else None

    def _read_low(self, payload: bytes, n_bytes: int) -> tuple[U8, int]:
        """Low bits with a byte of padding, and the position after their frame."""
        start = _HEADER.size + _FRAME_BYTES.size
        if len(payload) < start:
            raise CodecError(f"{_PLACE}: low frame: expected its length in 4 bytes, got {len(payload)} payload bytes; it is cut off")
        end = start + _FRAME_BYTES.unpack_from(payload, _HEADER.size)[0]
        if len(payload) < end:
            raise CodecError(f"{_PLACE}: low frame: expected {end} payload bytes, got {len(payload)}; the payload is cut off")
        return np.frombuffer(self._zstd.decompress(payload[start:end], n_bytes, _PLACE) + b"\0", dtype=np.uint8), end


def _read_header(payload: bytes) -> tuple[int, int, int]:
    """Flags and the Rice parameters of deviations and means."""
    if len(payload) < _HEADER.size:
        raise CodecError(f"{_PLACE}: header: expected {_HEADER.size} bytes, got {len(payload)}; the payload is cut off")
    layout, flags, rice = _HEADER.unpack_from(payload)
    k_scale, k_mean = rice & 15, rice >> 4
    if layout != _LAYOUT or flags > 31 or max(k_scale, k_mean) > 8:
        got = f"layout {layout}, flags {flags}, {k_scale} and {k_mean}"
        raise CodecError(
            f"{_PLACE}: header: expected layout {_LAYOUT}, flags below 32, Rice parameters to 8, got {got}; the payload is damaged"
        )
    return flags, k_scale, k_mean


def _raw_words(payload: bytes, flags: int, shape: Shape) -> U16:
    n_bytes = 2 * shape[0] * shape[1] * shape[2]
    if not flags & _FLAG_RAW or len(payload) != _HEADER.size + n_bytes:
        raise CodecError(f"{_PLACE}: raw words: expected {n_bytes} bytes, got {len(payload) - _HEADER.size}; the payload is damaged")
    return np.frombuffer(payload, dtype="<u2", offset=_HEADER.size).astype(np.uint16).reshape(shape)
