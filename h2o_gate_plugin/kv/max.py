"""Codec 4, ``kv_max``: as small as the data allows. Every 16-bit word is coded under a normal distribution that the tokens before it,
the channels before it in its token, K (for V) and an earlier row like this one predict; docs/frame-format.md has the payload.

Nothing is trained or shipped: the statistics are those of the sequence's own earlier tokens, kept in step by both sides in integers.
A tensor can be coded alone (`KvMax.encode`), or a sequence of K and V chunk after chunk (`KvMax.encoder`, `KvMax.decoder`), where every
chunk profits from those before it and can be decoded after them only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.max_coder import STATE_LOW, Coder, pack_intervals
from h2o_gate_plugin.kv.max_model import Layout, Rope, SequenceModel
from h2o_gate_plugin.kv.planes import U16, Part, Shape, checked_size, checked_tensor
from h2o_gate_plugin.kv.rope_guess import guess_rope, nominal_spreads
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames
from h2o_gate_plugin.kv_options import KvDtype

_HEAD = struct.Struct("<BBHII")
_THETA = struct.Struct("<d")
_STATE = struct.Struct("<Q")
_LAYOUT = 1
_ROPE, _INTERLEAVED, _BF16, _RAW, _JOINT, _VALUES = 1, 2, 4, 8, 16, 32
_PLACE = "kv_max"

MAX_HEAD_DIM = 256
MAX_ROW_CHANNELS = 8192
"""Larger tensors are stored as they are: statistics take 10 kB a channel and more."""

RopeChoice = Literal["auto", "off"] | Rope


@dataclass(frozen=True)
class _Header:
    flags: int
    n_before: int
    chain: int
    rope: Rope | None
    spreads: npt.NDArray[np.int8] | None
    body: memoryview


class KvMax:
    """Safe to share between threads. ``rope``: how K was rotated; ``auto`` finds out from the first tokens. Payloads tell a decoder."""

    name = "kv_max"
    codec_id = 4

    def __init__(self, dtype: KvDtype = "fp16", rope: RopeChoice = "auto") -> None:
        self._dtype, self._rope = dtype, rope

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → payload; raises CodecError for another dtype or rank."""
        tensor = checked_tensor(tensor, _PLACE)
        return MaxEncoder((part,), self._dtype, self._rope).encode_all((tensor,))[0]

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """The exact tensor; raises CodecError for anything but a whole payload of that shape that was coded alone."""
        return MaxDecoder((part,)).decode_all((payload,), shape)[0]

    def encoder(self) -> MaxEncoder:
        """Of one sequence of K and V."""
        return MaxEncoder(("k", "v"), self._dtype, self._rope)

    def decoder(self) -> MaxDecoder:
        return MaxDecoder(("k", "v"))


class _Side:
    """What both sides keep of a sequence; ``chain``: a checksum of the payloads so far, so that no chunk is decoded out of turn."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._model: SequenceModel | None = None
        self._shape: tuple[int, int] | None = None
        self._chain = 0

    def _advance(self, payloads: Sequence[bytes], stored: bool) -> None:
        """After a chunk that was stored as it is, the next one begins anew."""
        self._chain = 0 if stored else xxh3_64_intdigest(b"".join(payloads), seed=self._chain) & 0xFFFFFFFF
        if stored:
            self._model = None

    @property
    def _n_before(self) -> int:
        return self._model.n_tokens if self._model is not None else 0


class MaxEncoder(_Side):
    """Chunks in order. Not for several threads."""

    def __init__(self, parts: Sequence[Part], dtype: KvDtype, rope: RopeChoice) -> None:
        super().__init__(parts)
        self._dtype, self._rope = dtype, rope

    def encode(self, keys: U16, values: U16) -> tuple[bytes, bytes]:
        """`encode_all` of K and V."""
        k_payload, v_payload = self.encode_all((keys, values))
        return k_payload, v_payload

    def encode_all(self, tensors: Sequence[U16]) -> tuple[bytes, ...]:
        """One chunk: u16 ``[n_seq, n_kv_head, head_dim]`` of each part, one shape throughout but for n_seq → one payload a part."""
        tensors = tuple(checked_tensor(tensor, _PLACE) for tensor in tensors)
        n_seq, n_kv_head, head_dim = tensors[0].shape
        if len(tensors) != len(self._parts) or any(tensor.shape != tensors[0].shape for tensor in tensors):
            shapes = [tensor.shape for tensor in tensors]
            raise CodecError(f"{_PLACE}: chunk: expected one tensor of one shape for each of {self._parts}, got {shapes}; check the caller")
        if self._shape not in (None, (n_kv_head, head_dim)):
            raise CodecError(f"{_PLACE}: chunk: expected heads {self._shape}, got {(n_kv_head, head_dim)}; begin another sequence")
        self._shape = n_kv_head, head_dim
        rows = [tensor.reshape(n_seq, n_kv_head * head_dim) for tensor in tensors]
        n_before = self._n_before
        stored = tuple(self._head(_RAW, part, n_before) + row.tobytes() for part, row in zip(self._parts, rows, strict=True))
        coded = self._coded(rows, head_dim) if _modelled(n_seq, n_kv_head, head_dim) else stored
        smaller = all(len(payload) < len(whole) for payload, whole in zip(coded, stored, strict=True))
        payloads = coded if smaller else stored
        self._advance(payloads, not smaller)
        return payloads

    def _coded(self, rows: Sequence[U16], head_dim: int) -> tuple[bytes, ...]:
        n_before = self._n_before
        first_spreads: list[npt.NDArray[np.int8]] = []
        if self._model is None:
            layout = self._layout(rows, head_dim)
            first_spreads = nominal_spreads(dict(zip(self._parts, rows, strict=True)), layout)
            self._model = SequenceModel(layout, np.concatenate(first_spreads))
        layout = self._model.layout
        n_token = len(rows[0])
        coders = [_recorder((2 + row.shape[1]) * n_token) for row in rows]
        self._model.encode(np.concatenate(rows, axis=1), coders[0], coders[-1])
        flags = _BF16 if layout.dtype == "bf16" else 0
        if layout.rope is not None:
            flags |= _ROPE | (_INTERLEAVED if layout.rope.interleaved else 0)
        payloads = []
        for i, coder in enumerate(coders):
            head = self._head(flags, self._parts[i], n_before)
            if first_spreads:
                head += _first_fields(layout, first_spreads[i])
            payloads.append(head + _packed(coder))
        return tuple(payloads)

    def _head(self, flags: int, part: Part, n_before: int) -> bytes:
        flags |= (_JOINT if len(self._parts) > 1 else 0) | (_VALUES if part == "v" else 0)
        return _HEAD.pack(_LAYOUT, flags, 0, n_before, self._chain)

    def _layout(self, rows: Sequence[U16], head_dim: int) -> Layout:
        widths = {part: row.shape[1] for part, row in zip(self._parts, rows, strict=True)}
        layout = Layout(widths.get("k", 0), widths.get("v", 0), head_dim, self._dtype, None)
        if "k" not in widths or head_dim % 2 or self._rope == "off":
            return layout
        rope = guess_rope(rows[0].reshape(len(rows[0]), -1, head_dim), self._dtype) if self._rope == "auto" else self._rope
        return replace(layout, rope=rope)


class MaxDecoder(_Side):
    """Payloads in the encoder's order. After a CodecError the sequence is lost."""

    def decode(self, k_payload: bytes, v_payload: bytes, shape: Shape) -> tuple[U16, U16]:
        """`decode_all` of K and V."""
        keys, values = self.decode_all((k_payload, v_payload), shape)
        return keys, values

    def decode_all(self, payloads: Sequence[bytes], shape: Shape) -> tuple[U16, ...]:
        """One chunk: a new writable u16 ``shape`` for each part; raises CodecError for damage, or a payload that is not the next one."""
        checked_size(shape, _PLACE)
        width = shape[1] * shape[2]
        headers = [_read_header(payload, width) for payload in payloads]
        head = headers[0]
        same = all((h.flags & ~_VALUES, h.n_before, h.chain) == (head.flags & ~_VALUES, head.n_before, head.chain) for h in headers)
        if tuple("v" if h.flags & _VALUES else "k" for h in headers) != self._parts or not same:
            raise CodecError(f"{_PLACE}: payloads: expected one chunk's {' and '.join(self._parts)}, got others; they were mixed up")
        if (head.n_before, head.chain) != (self._n_before, self._chain) or bool(head.flags & _JOINT) != (len(payloads) > 1):
            got = f"{head.n_before} (checksum {head.chain:#x})"
            raise CodecError(
                f"{_PLACE}: payload: expected one after {self._n_before} tokens (checksum {self._chain:#x}), got one after {got}; "
                f"decode a sequence from its start, in order"
            )
        stored = bool(head.flags & _RAW)
        tensors = tuple(_raw_tensor(header.body, shape) for header in headers) if stored else self._modelled(headers, shape)
        self._advance(payloads, stored)
        return tensors

    def _modelled(self, headers: Sequence[_Header], shape: Shape) -> tuple[U16, ...]:
        n_seq, n_kv_head, head_dim = shape
        width, n_bytes = n_kv_head * head_dim, len(headers[0].body)  # the first part's stream says of every row which one it is like
        if not _modelled(n_seq, n_kv_head, head_dim) or n_seq > 8 * n_bytes + 64 or (self._model is None and width > 700 * 8 * n_bytes):
            raise CodecError(f"{_PLACE}: payload: expected one of shape {shape}, got {n_bytes} bytes; it is cut off or of another shape")
        if self._model is None:
            self._model = _first_model(headers, self._parts, width, head_dim)
        if self._model.layout.head_dim != head_dim or width not in (self._model.layout.n_key, self._model.layout.n_value):
            raise CodecError(f"{_PLACE}: shape: expected heads of {self._model.layout}, got {shape}; pass the shape that was encoded")
        coders = [_reader(header.body) for header in headers]
        words = self._model.decode(n_seq, coders[0], coders[-1])
        if words is None or any(int(coder.state[0]) != STATE_LOW or int(coder.at[0]) != len(coder.words) for coder in coders):
            raise CodecError(f"{_PLACE}: payload: expected its stream to end with the last token, got another end; it is damaged")
        return tuple(np.ascontiguousarray(words[:, i * width : (i + 1) * width]).reshape(shape) for i in range(len(headers)))


def _modelled(n_seq: int, n_kv_head: int, head_dim: int) -> bool:
    return n_seq > 0 and 0 < head_dim <= MAX_HEAD_DIM and 0 < n_kv_head * head_dim <= MAX_ROW_CHANNELS


def _first_fields(layout: Layout, spreads: npt.NDArray[np.int8]) -> bytes:
    theta = _THETA.pack(layout.rope.theta) if layout.rope is not None else b""
    packed = ZstdFrames(19).compress(spreads.view(np.uint8))
    return theta + struct.pack("<H", len(packed)) + packed


def _first_model(headers: Sequence[_Header], parts: Sequence[Part], width: int, head_dim: int) -> SequenceModel:
    spreads = [header.spreads for header in headers if header.spreads is not None]
    dtype: KvDtype = "bf16" if headers[0].flags & _BF16 else "fp16"
    rope = headers[0].rope
    if rope is not None and (head_dim % 2 or "k" not in parts):
        raise CodecError(f"{_PLACE}: payload: expected rotated K of even heads only, got {parts} of {head_dim}; it is damaged")
    layout = Layout(width if "k" in parts else 0, width if "v" in parts else 0, head_dim, dtype, rope)
    return SequenceModel(layout, np.concatenate(spreads))


def _read_header(payload: bytes, width: int) -> _Header:
    data = memoryview(payload)
    if len(data) < _HEAD.size:
        raise CodecError(f"{_PLACE}: header: expected {_HEAD.size} bytes, got {len(data)}; the payload is cut off")
    layout, flags, reserved, n_before, chain = _HEAD.unpack_from(data)
    if layout != _LAYOUT or flags > 63 or reserved or (flags & _INTERLEAVED and not flags & _ROPE):
        raise CodecError(f"{_PLACE}: header: expected layout {_LAYOUT} and known flags, got {layout}, {flags}; damaged or newer")
    data = data[_HEAD.size :]
    rope, spreads = None, None
    if flags & _RAW or n_before:
        return _Header(flags, n_before, chain, rope, spreads, data)
    try:
        if flags & _ROPE:
            rope = Rope(_THETA.unpack_from(data)[0], bool(flags & _INTERLEAVED))
            data = data[_THETA.size :]
        (n_packed,) = struct.unpack_from("<H", data)
    except struct.error as err:
        raise CodecError(f"{_PLACE}: header: expected the sequence's first fields, got {len(data)} bytes; the payload is cut off") from err
    if rope is not None and not 1.0 < rope.theta < 1e12:
        raise CodecError(f"{_PLACE}: header: expected a RoPE base between 1 and 1e12, got {rope.theta!r}; the payload is damaged")
    packed = data[2 : 2 + n_packed]
    if len(packed) != n_packed or width > MAX_ROW_CHANNELS:
        raise CodecError(f"{_PLACE}: header: expected {n_packed} bytes for {width} channels, got {len(packed)}; the payload is cut off")
    spreads = np.frombuffer(ZstdFrames(19).decompress(packed, width, _PLACE), dtype=np.int8)
    return _Header(flags, n_before, chain, rope, spreads, data[2 + n_packed :])


def _raw_tensor(body: memoryview, shape: Shape) -> U16:
    n_bytes = 2 * shape[0] * shape[1] * shape[2]
    if len(body) != n_bytes:
        raise CodecError(f"{_PLACE}: payload: expected {n_bytes} bytes of words, got {len(body)}; cut off or of another shape")
    return np.frombuffer(body, dtype="<u2").astype(np.uint16).reshape(shape)


_NO_WORDS = np.empty(0, dtype=np.uint32)


def _recorder(n: int) -> Coder:
    return Coder(np.zeros(1, np.uint64), np.zeros(1, np.int64), _NO_WORDS, np.empty(n, np.uint32), np.empty(n, np.uint32))


def _reader(body: memoryview) -> Coder:
    if len(body) < _STATE.size or (len(body) - _STATE.size) % 4:
        raise CodecError(f"{_PLACE}: payload: expected 8 bytes and words of 4, got {len(body)}; the payload is cut off")
    state = np.array([_STATE.unpack_from(body)[0]], dtype=np.uint64)
    words = np.frombuffer(body[_STATE.size :], dtype="<u4").astype(np.uint32)
    return Coder(state, np.zeros(1, np.int64), words, _NO_WORDS, _NO_WORDS)


def _packed(coder: Coder) -> bytes:
    n = int(coder.at[0])
    words = np.empty(n + 1, dtype=np.uint32)
    state, n_words = pack_intervals(coder.starts, coder.sizes, n, words)
    return _STATE.pack(int(state)) + words[len(words) - n_words :].astype("<u4").tobytes()
