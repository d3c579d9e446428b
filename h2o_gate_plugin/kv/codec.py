"""What a codec of KV tensors is, and the registry of those that a stored block may name.

Contract of every codec: ``decode(encode(t, part), t.shape, part)`` equals ``t`` bit for bit, for every u16 tensor of rank 3, empty
ones included; `CodecError` for any payload that is not exactly one encoded tensor of that shape, checked before the output is
allocated; safe to call from several threads. A codec id never changes its meaning: old frames keep decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from h2o_gate_plugin.errors import CodecError, nearest
from h2o_gate_plugin.kv.fast import KvFast
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv.max import KvMax
from h2o_gate_plugin.kv.planes import U16, Part, Shape
from h2o_gate_plugin.kv_options import K_PREDICTORS, V_PREDICTORS, KvDtype

__all__ = ["U16", "Codec", "Part", "Shape", "codec_by_id", "codec_by_name", "every_codec"]


class Codec(Protocol):
    """See the module's contract."""

    @property
    def name(self) -> str: ...

    @property
    def codec_id(self) -> int: ...

    def encode(self, tensor: U16, part: Part) -> bytes:
        """u16 ``[n_seq, n_kv_head, head_dim]`` → payload."""
        ...

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        """Payload → a new writable u16 array of ``shape``."""
        ...


def codec_by_name(
    name: str,
    k_predictors: Sequence[str] = K_PREDICTORS,
    v_predictors: Sequence[str] = V_PREDICTORS,
    dtype: KvDtype = "fp16",
) -> Codec:
    """The codec of a ``kv_lossless_codec_runtime`` word; raises CodecError for an unknown name.

    The predictors are for the gear's high planes: the low byte of fp16 is noise to every one of them, so low planes are stored as they
    are. ``dtype`` is for kv_fast.
    """
    if name == GearV22.name:
        return GearV22(k_predictors, v_predictors, k_lo_predictors=("raw",), v_lo_predictors=("raw",))
    if name == KvFast.name:
        return KvFast(dtype)
    raise CodecError(f"codec: name: expected a known codec, got {name!r}; {nearest(name, (GearV22.name, KvFast.name))}")


def codec_by_id(codec_id: int) -> Codec:
    """A codec that decodes payloads stored under ``codec_id``; raises CodecError for an unknown id."""
    if codec_id not in _CODECS:
        known = ", ".join(str(known_id) for known_id in _CODECS)
        raise CodecError(f"codec: id: expected one of {known}, got {codec_id}; the frame is damaged or newer than this release")
    return _CODECS[codec_id]()


def every_codec() -> tuple[Codec, ...]:
    """One instance of every registered codec, in the order of their ids."""
    return tuple(make() for _, make in sorted(_CODECS.items()))


_CODECS: dict[int, Callable[[], Codec]] = {
    GearV22.codec_id: GearV22,
    LegacyDelta.codec_id: LegacyDelta,
    KvFast.codec_id: KvFast,
    KvMax.codec_id: KvMax,
}
