"""What one unit of a dump measures: entries joined along seq, read, compressed, decoded, compared, and dropped again.

`measure_unit` is a pure function of files, settings and codec, and everything that goes in or out of it can be pickled: units may be
measured in any order, in any thread or process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.dump import DumpEntry, EntryError
from h2o_gate_plugin.kv.planes import U16, Part
from h2o_gate_plugin.offline.coding import SequenceCodec
from h2o_gate_plugin.offline.order0 import payload_bound_bytes
from h2o_gate_plugin.offline.selection import Unit
from h2o_gate_plugin.offline.settings import CHUNKED_MODES, EvaluatorSettings
from h2o_gate_plugin.offline.tensor_stats import TensorStats, tensor_stats


@dataclass(frozen=True)
class PartSums:
    """Sums over K or over V: bytes of proven payloads, framing counted on top, chunks, blocks per predictor.

    ``hi_bytes`` and ``lo_bytes``: the payloads' bytes by byte plane, None for a codec without planes. ``bound_bytes``: what the payloads
    cannot honestly be below (`order0`), None where there is no bound; ``chunks_above_bound``: payloads that are.
    """

    raw_bytes: int = 0
    payload_bytes: int = 0
    framing_bytes: int = 0
    chunks: int = 0
    hi_modes: Mapping[str, int] = field(default_factory=dict)
    lo_modes: Mapping[str, int] = field(default_factory=dict)
    hi_bytes: int | None = 0
    lo_bytes: int | None = 0
    bound_bytes: int | None = 0
    chunks_above_bound: int = 0
    stats: TensorStats = field(default_factory=TensorStats)

    def __add__(self, other: PartSums) -> PartSums:
        return PartSums(
            self.raw_bytes + other.raw_bytes,
            self.payload_bytes + other.payload_bytes,
            self.framing_bytes + other.framing_bytes,
            self.chunks + other.chunks,
            dict(Counter(self.hi_modes) + Counter(other.hi_modes)),
            dict(Counter(self.lo_modes) + Counter(other.lo_modes)),
            _known_sum(self.hi_bytes, other.hi_bytes),
            _known_sum(self.lo_bytes, other.lo_bytes),
            _known_sum(self.bound_bytes, other.bound_bytes),
            self.chunks_above_bound + other.chunks_above_bound,
            self.stats + other.stats,
        )

    @property
    def compressed_bytes(self) -> int:
        return self.payload_bytes + self.framing_bytes

    @property
    def lossless_ratio(self) -> float:
        """Raw bytes / compressed bytes."""
        return self.raw_bytes / self.compressed_bytes


@dataclass(frozen=True)
class UnitResult:
    """``counted``: the entries whose bytes are in ``k`` and ``v``, none when the unit failed; ``skip_reasons``: the others by reason;
    ``lines``: what the log says of the unit.
    """

    counted: Unit
    k: PartSums
    v: PartSums
    skip_reasons: Mapping[str, int]
    lines: tuple[str, ...]


def measure_unit(unit: Unit, settings: EvaluatorSettings, codec: SequenceCodec) -> UnitResult:
    """Read the unit and measure it; an entry that cannot be read or compressed is a skip reason, never an exception."""
    readable, skips = _read(unit, settings)
    reasons = Counter(skip.reason for skip in skips)
    lines = tuple(f"skipped {skip.reason}: {skip}" for skip in skips)
    if not readable:
        return UnitResult((), PartSums(), PartSums(), reasons, lines)
    entries = tuple(entry for entry, _, _ in readable)
    keys = _joined([keys for _, keys, _ in readable])
    values = _joined([values for _, _, values in readable])
    try:
        k, v = _measure(keys, values, entries, settings, codec)
    except CodecError as err:
        reasons["codec_error"] += len(entries)
        return UnitResult((), PartSums(), PartSums(), reasons, (*lines, f"skipped codec_error: {entries[0].meta_path}: {err}"))
    return UnitResult(entries, k, v, reasons, (*lines, _unit_line(entries, k, v)))


def unreadable(unit: Unit, settings: EvaluatorSettings) -> Counter[str]:
    """The entries of the unit that cannot be read from here, by reason."""
    return Counter(skip.reason for skip in _read(unit, settings)[1])


def _read(unit: Unit, settings: EvaluatorSettings) -> tuple[list[tuple[DumpEntry, U16, U16]], list[EntryError]]:
    """The readable entries with their K and V words, and why the others are not."""
    readable: list[tuple[DumpEntry, U16, U16]] = []
    skips: list[EntryError] = []
    for entry in unit:
        try:
            readable.append((entry, entry.words("k", settings.strict_fp16), entry.words("v", settings.strict_fp16)))
        except EntryError as err:
            skips.append(err)
    return readable, skips


def _joined(tensors: list[U16]) -> U16:
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def _measure(keys: U16, values: U16, entries: Unit, settings: EvaluatorSettings, codec: SequenceCodec) -> tuple[PartSums, PartSums]:
    """Sizes of K and V, each ``[n_seq, kv_heads, head_dim]``; raises CodecError when a payload does not come back bit-equal."""
    chunked = settings.entry_mode in CHUNKED_MODES
    step = settings.online_chunk_seq if chunked else len(keys)
    encoder, decoder = codec.encoder("bf16" if entries[0].dtype == "bf16" else "fp16"), codec.decoder()
    k, v = PartSums(), PartSums()
    for start in range(0, len(keys), step):
        k_chunk, v_chunk = keys[start : start + step], values[start : start + step]
        k_payload, v_payload = encoder.encode(k_chunk, v_chunk)
        shape = k_chunk.shape[0], k_chunk.shape[1], k_chunk.shape[2]
        k_back, v_back = decoder.decode(k_payload, v_payload, shape)
        k += _proven(codec, "k", start, k_chunk, k_payload, k_back)
        v += _proven(codec, "v", start, v_chunk, v_payload, v_back)
    framing_bytes = 0
    if chunked:
        framing_bytes = settings.online_framing_bytes * k.chunks
    elif settings.entry_mode == "aggregate":
        framing_bytes = 4 + 4 * len(entries)  # the number of entries and the length of each
    return (
        replace(k, framing_bytes=framing_bytes, stats=tensor_stats(keys)),
        replace(v, framing_bytes=framing_bytes, stats=tensor_stats(values)),
    )


def _proven(codec: SequenceCodec, part: Part, start: int, chunk: U16, payload: bytes, back: U16) -> PartSums:
    """What one payload counts; raises CodecError when ``back`` is not ``chunk`` bit for bit."""
    if not np.array_equal(back, chunk):
        raise CodecError(
            f"{codec.name}: {part} tokens {start}+{len(chunk)}: expected the encoded bits back, got others; the codec is broken"
        )
    high, low = codec.plane_modes(payload, len(chunk), part)
    planes = codec.stored_planes(payload, len(chunk), part)
    hi_bytes, lo_bytes = (None, None) if planes is None else (planes[0].n_bytes, planes[1].n_bytes)
    bound_bytes = payload_bound_bytes(chunk, planes)
    above = bound_bytes is not None and len(payload) < bound_bytes
    return PartSums(
        chunk.nbytes, len(payload), 0, 1, Counter(high), Counter(low), hi_bytes, lo_bytes, bound_bytes, chunks_above_bound=int(above)
    )


def _known_sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _unit_line(entries: Unit, k: PartSums, v: PartSums) -> str:
    first = entries[0]
    span = f"tokens {first.seq_start} to {max(entry.seq_start + entry.seq_len for entry in entries)}"
    return f"{first.run_id} layer {first.layer} {span}: {len(entries)} entries, K {k.lossless_ratio:.4f}, V {v.lossless_ratio:.4f}"
