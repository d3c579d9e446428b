"""How small a dumped KV gets without loss: the llm_bench contract's "offline evaluator's arithmetic".

Every counted byte comes from a blob that was decoded and compared bit for bit; an entry that cannot be read or does not come back
exactly adds to no byte count and is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from h2o_gate_plugin.errors import CodecError, DumpError
from h2o_gate_plugin.kv.codec import Codec
from h2o_gate_plugin.kv.dump import Dump, DumpEntry, EntryError, read_dump, read_tensor
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.legacy_delta import LegacyDelta
from h2o_gate_plugin.kv.planes import U16, Part
from h2o_gate_plugin.offline.result import OfflineResult, TensorTotals
from h2o_gate_plugin.offline.selection import Unit, overlapping_entries, select, units
from h2o_gate_plugin.offline.settings import CHUNKED_MODES, EvaluatorSettings


class MeasuredCodec(Codec, Protocol):
    """A codec whose payloads tell which predictors they use."""

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]: ...


@dataclass
class _Sums:
    """Running totals of K or V."""

    raw_bytes: int = 0
    compressed_bytes: int = 0
    framing_bytes: int = 0
    chunks: int = 0
    hi_modes: Counter[str] = field(default_factory=Counter)
    lo_modes: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Sums) -> None:
        self.raw_bytes += other.raw_bytes
        self.compressed_bytes += other.compressed_bytes
        self.framing_bytes += other.framing_bytes
        self.chunks += other.chunks
        self.hi_modes += other.hi_modes
        self.lo_modes += other.lo_modes

    def totals(self) -> TensorTotals:
        compressed = self.compressed_bytes + self.framing_bytes
        return TensorTotals(self.raw_bytes, compressed, self.framing_bytes, dict(self.hi_modes), dict(self.lo_modes))


def codec_for(settings: EvaluatorSettings) -> MeasuredCodec:
    """The codec of the settings' ``codec_mode``."""
    if settings.codec_mode == "legacy":
        return LegacyDelta(settings.zstd_level, bitshuffle=settings.bitshuffle)
    return GearV22(
        settings.k_hi_predictors,
        settings.v_hi_predictors,
        settings.adaptive_block_seq,
        settings.zstd_level,
        k_lo_predictors=settings.k_lo_predictors,
        v_lo_predictors=settings.v_lo_predictors,
        bitshuffle=settings.bitshuffle,
    )


def evaluate(
    source: Path | Dump, settings: EvaluatorSettings, *, codec: MeasuredCodec | None = None, log: Callable[[str], None] | None = None
) -> OfflineResult:
    """Evaluate a dump (folder or listing). ``codec``: another one than the settings name; ``log`` gets a line per unit and per skip.

    Raises DumpError when the folder holds no meta file or no entry could be evaluated, ConfigError never (settings are checked).
    """
    dump = read_dump(source) if isinstance(source, Path) else source
    codec = codec_for(settings) if codec is None else codec
    log = _silent if log is None else log
    chosen = select(dump.entries, settings)
    skip_reasons = Counter(skip.reason for skip in dump.skipped)
    for skip in dump.skipped:
        log(f"skipped {skip.reason}: {skip.message}")
    sums: dict[Part, _Sums] = {"k": _Sums(), "v": _Sums()}
    counted: list[Unit] = []
    for unit in units(chosen, settings):
        readable, tensors = _read_unit(unit, settings, skip_reasons, log)
        if not readable:
            continue
        try:
            measured = {part: _measure(codec, tensor, part, len(readable), settings) for part, tensor in tensors.items()}
        except CodecError as err:
            skip_reasons["codec_error"] += len(readable)
            log(f"skipped codec_error: {readable[0].meta_path}: {err}")
            continue
        for part, part_sums in measured.items():
            sums[part].add(part_sums)
        counted.append(readable)
        log(_unit_line(readable, measured))
    return _result(dump, settings, chosen, tuple(counted), skip_reasons, sums)


def _read_unit(
    unit: Unit, settings: EvaluatorSettings, skip_reasons: Counter[str], log: Callable[[str], None]
) -> tuple[Unit, dict[Part, U16]]:
    """The readable entries of the unit and their K and V joined along seq; the others are counted."""
    readable: list[DumpEntry] = []
    keys: list[U16] = []
    values: list[U16] = []
    for entry in unit:
        try:
            pair = read_tensor(entry, "k", settings.strict_fp16), read_tensor(entry, "v", settings.strict_fp16)
        except EntryError as err:
            skip_reasons[err.reason] += 1
            log(f"skipped {err.reason}: {err}")
            continue
        readable.append(entry)
        keys.append(pair[0])
        values.append(pair[1])
    if not readable:
        return (), {}
    return tuple(readable), {"k": np.concatenate(keys), "v": np.concatenate(values)}


def _measure(codec: MeasuredCodec, tensor: U16, part: Part, n_entries: int, settings: EvaluatorSettings) -> _Sums:
    """Sizes of one unit's K or V ``[n_seq, kv_heads, head_dim]``; raises CodecError when a blob does not come back bit-equal."""
    chunked = settings.entry_mode in CHUNKED_MODES
    step = settings.online_chunk_seq if chunked else len(tensor)
    sums = _Sums(raw_bytes=tensor.nbytes)
    for start in range(0, len(tensor), step):
        chunk = tensor[start : start + step]
        payload = codec.encode(chunk, part)
        if not np.array_equal(codec.decode(payload, (chunk.shape[0], chunk.shape[1], chunk.shape[2]), part), chunk):
            raise CodecError(
                f"{codec.name}: {part} tokens {start}+{len(chunk)}: expected the encoded bits back, got others; the codec is broken"
            )
        high, low = codec.plane_modes(payload, len(chunk))
        sums.compressed_bytes += len(payload)
        sums.chunks += 1
        sums.hi_modes.update(high)
        sums.lo_modes.update(low)
    if chunked:
        sums.framing_bytes = settings.online_framing_bytes * sums.chunks
    elif settings.entry_mode == "aggregate":
        sums.framing_bytes = 4 + 4 * n_entries  # the number of entries and the length of each
    return sums


def _result(
    dump: Dump,
    settings: EvaluatorSettings,
    chosen: tuple[DumpEntry, ...],
    counted: tuple[Unit, ...],
    skip_reasons: Counter[str],
    sums: dict[Part, _Sums],
) -> OfflineResult:
    total = len(dump.entries) + len(dump.skipped)
    filtered = len(dump.entries) - len(chosen)
    skipped = sum(skip_reasons.values())
    if not counted:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skip_reasons.items())) or "none"
        raise DumpError(
            f"{dump.folder}: dump: expected at least one entry to evaluate, got {total} entries, {filtered} outside scope, stage or length "
            f"and {skipped} skipped ({reasons}); dump again or widen --scope, --stage and --min-seq-len"
        )
    entries = tuple(entry for unit in counted for entry in unit)
    return OfflineResult(
        dump_dir=dump.folder,
        settings=settings,
        k=sums["k"].totals(),
        v=sums["v"].totals(),
        total_entries=total,
        filtered_entries=filtered,
        selected_entries=len(entries),
        skipped_entries=skipped,
        skip_reasons=dict(sorted(skip_reasons.items())),
        selected_layers=tuple(sorted({entry.layer for entry in entries})),
        selected_dumps=tuple(sorted({entry.run_id for entry in entries})),
        selected_groups=len(counted),
        selected_chunks=sums["k"].chunks,
        overlapping_entries=overlapping_entries(entries),
    )


def _unit_line(unit: Unit, measured: dict[Part, _Sums]) -> str:
    k, v = measured["k"].totals(), measured["v"].totals()
    first = unit[0]
    span = f"tokens {first.seq_start} to {max(entry.seq_start + entry.seq_len for entry in unit)}"
    return f"{first.run_id} layer {first.layer} {span}: {len(unit)} entries, K {k.lossless_ratio:.4f}, V {v.lossless_ratio:.4f}"


def _silent(line: str) -> None:
    """Nobody listens."""
