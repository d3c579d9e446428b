"""How K and V of one sequence become payloads: chunk after chunk in token order, both side by side.

Contract of every sequence codec: an encoder and a decoder belong to one sequence and may keep state from chunk to chunk; the decoder is
fed the encoder's payloads in their order and gives back every word bit for bit. `CodecError` for anything else.

To add one: a class with these methods, a word in ``settings.CodecMode`` and its line in `codec_for`. It must be picklable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from h2o_gate_plugin.kv.codec import Codec
from h2o_gate_plugin.kv.fast import KvFast
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv.max import KvMax, MaxDecoder, MaxEncoder
from h2o_gate_plugin.kv.planes import U16, Part, Shape, StoredPlane
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.offline.settings import EvaluatorSettings

PlaneModes = tuple[tuple[str, ...], tuple[str, ...]]
"""Predictor names of the high plane and of the low plane, one per block."""

StoredPlanes = tuple[StoredPlane, StoredPlane]
"""The high plane and the low plane of a payload."""


class SequenceEncoder(Protocol):
    def encode(self, keys: U16, values: U16) -> tuple[bytes, bytes]:
        """The next chunk, two u16 ``[n_seq, n_kv_head, head_dim]`` → the payload counted for K and the one counted for V."""
        ...


class SequenceDecoder(Protocol):
    def decode(self, k_payload: bytes, v_payload: bytes, shape: Shape) -> tuple[U16, U16]:
        """The next chunk's payloads → K and V, each of ``shape``."""
        ...


class SequenceCodec(Protocol):
    """See the module's contract."""

    @property
    def name(self) -> str: ...

    def encoder(self, dtype: KvDtype) -> SequenceEncoder:
        """For a new sequence of such words."""
        ...

    def decoder(self) -> SequenceDecoder:
        """For a new sequence."""
        ...

    def plane_modes(self, payload: bytes, n_seq: int, part: Part) -> PlaneModes:
        """What one payload says of its predictors; empty tuples for a codec that has none."""
        ...

    def stored_planes(self, payload: bytes, n_seq: int, part: Part) -> StoredPlanes | None:
        """What one payload says of its byte planes; None for a codec without them. Decides whether the entropy bound applies."""
        ...


class MeasuredCodec(Codec, Protocol):
    """A codec of single tensors whose payloads tell which predictors they use."""

    def plane_modes(self, payload: bytes, n_seq: int) -> PlaneModes: ...

    def stored_planes(self, payload: bytes, n_seq: int) -> StoredPlanes | None: ...


@dataclass(frozen=True)
class Apart:
    """Encoder and decoder without state: K and V apart and every chunk for itself."""

    codec: Codec

    def encode(self, keys: U16, values: U16) -> tuple[bytes, bytes]:
        return self.codec.encode(keys, "k"), self.codec.encode(values, "v")

    def decode(self, k_payload: bytes, v_payload: bytes, shape: Shape) -> tuple[U16, U16]:
        return self.codec.decode(k_payload, shape, "k"), self.codec.decode(v_payload, shape, "v")


@dataclass(frozen=True)
class TensorByTensor:
    """A codec of single tensors as a sequence codec."""

    codec: MeasuredCodec

    @property
    def name(self) -> str:
        return self.codec.name

    def encoder(self, dtype: KvDtype) -> Apart:
        return Apart(self.codec)

    def decoder(self) -> Apart:
        return Apart(self.codec)

    def plane_modes(self, payload: bytes, n_seq: int, part: Part) -> PlaneModes:
        return self.codec.plane_modes(payload, n_seq)

    def stored_planes(self, payload: bytes, n_seq: int, part: Part) -> StoredPlanes | None:
        return self.codec.stored_planes(payload, n_seq)


@dataclass(frozen=True)
class FastTensors:
    """Codec ``kv_fast``, whose encoder must know the words' format."""

    name: str = KvFast.name

    def encoder(self, dtype: KvDtype) -> Apart:
        return Apart(KvFast(dtype))

    def decoder(self) -> Apart:
        return Apart(KvFast())

    def plane_modes(self, payload: bytes, n_seq: int, part: Part) -> PlaneModes:
        return (), ()

    def stored_planes(self, payload: bytes, n_seq: int, part: Part) -> StoredPlanes | None:
        """None: what it expects of a symbol depends on the channel and on earlier rows, and no entropy of single bytes bounds it."""
        return None


@dataclass(frozen=True)
class MaxSequence:
    """Codec ``kv_max`` over a sequence: each chunk is coded with what those before it taught."""

    name: str = KvMax.name

    def encoder(self, dtype: KvDtype) -> MaxEncoder:
        return KvMax(dtype).encoder()

    def decoder(self) -> MaxDecoder:
        return KvMax().decoder()

    def plane_modes(self, payload: bytes, n_seq: int, part: Part) -> PlaneModes:
        return (), ()

    def stored_planes(self, payload: bytes, n_seq: int, part: Part) -> StoredPlanes | None:
        """None: it predicts across channels, tokens and parts, and no entropy of single bytes bounds it."""
        return None


def codec_for(settings: EvaluatorSettings) -> SequenceCodec:
    """The codec of the settings' ``codec_mode``."""
    if settings.codec_mode == "kv_fast":
        return FastTensors()
    if settings.codec_mode == "kv_max":
        return MaxSequence()
    if settings.codec_mode == "legacy":
        return TensorByTensor(LegacyDelta(settings.zstd_level, bitshuffle=settings.bitshuffle))
    return TensorByTensor(
        GearV22(
            settings.k_hi_predictors,
            settings.v_hi_predictors,
            settings.adaptive_block_seq,
            settings.zstd_level,
            k_lo_predictors=settings.k_lo_predictors,
            v_lo_predictors=settings.v_lo_predictors,
            bitshuffle=settings.bitshuffle,
        )
    )
