"""How small a dumped KV gets without loss: the llm_bench contract's "offline evaluator's arithmetic".

Every counted byte comes from a blob that was decoded and compared bit for bit; an entry that cannot be read or does not come back
exactly adds to no byte count and is counted by reason. The units are listed here, measured by `unit.measure_unit`, and merged in the
order of the list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from h2o_gate_plugin.errors import DumpError
from h2o_gate_plugin.kv.dump import Dump, DumpEntry
from h2o_gate_plugin.kv.planes import Part
from h2o_gate_plugin.offline.coding import SequenceCodec, codec_for
from h2o_gate_plugin.offline.layers import AboveBound, layer_rows
from h2o_gate_plugin.offline.result import OfflineResult, TensorTotals
from h2o_gate_plugin.offline.selection import overlapping_entries, select, units
from h2o_gate_plugin.offline.settings import EvaluatorSettings
from h2o_gate_plugin.offline.sources import read_source
from h2o_gate_plugin.offline.unit import PartSums, UnitResult, measure_unit
from h2o_gate_plugin.offline.unit_progress import UnitProgress
from h2o_gate_plugin.offline.workers import Mapper, thread_mapper

Log = Callable[[str], None]


def evaluate(
    source: Path | Dump,
    settings: EvaluatorSettings,
    *,
    codec: SequenceCodec | None = None,
    log: Log | None = None,
    mapper: Mapper | None = None,
    progress: UnitProgress | None = None,
) -> OfflineResult:
    """Evaluate a folder (a dump, or tensors) or its listing; the result is the same wherever and in whatever order units are measured.

    ``codec``: another one than the settings name; ``log`` gets a line per unit and per skip; ``mapper`` None: one unit after the other.
    Holds the words of the units that are being measured, never of the dump. Raises DumpError when the folder holds nothing to list or no
    entry could be evaluated, ConfigError for a layout or dtype that does not fit the folder.
    """
    dump = read_source(source, settings.layout, settings.dtype) if isinstance(source, Path) else source
    chosen = select(dump.entries, settings)
    listed = units(chosen, settings)
    measure = partial(measure_unit, settings=settings, codec=codec_for(settings) if codec is None else codec)
    mapper = thread_mapper(1) if mapper is None else mapper
    progress = UnitProgress(None) if progress is None else progress
    progress.start(listed)
    return _merged(dump, settings, chosen, mapper(measure, listed, progress.finished), _silent if log is None else log)


def _merged(
    dump: Dump, settings: EvaluatorSettings, chosen: tuple[DumpEntry, ...], measured: Iterable[UnitResult], log: Log
) -> OfflineResult:
    """The sum of ``measured``, which comes in the order of the units."""
    skip_reasons = Counter(skip.reason for skip in dump.skipped)
    for skip in dump.skipped:
        log(f"skipped {skip.reason}: {skip.message}")
    layers: dict[int, tuple[PartSums, PartSums]] = {}
    above_bound: list[AboveBound] = []
    entries: list[DumpEntry] = []
    groups = 0
    for result in measured:
        for line in result.lines:
            log(line)
        skip_reasons.update(result.skip_reasons)
        if result.counted:
            layer = result.counted[0].layer
            k, v = layers.get(layer, (PartSums(), PartSums()))
            layers[layer] = k + result.k, v + result.v
            above_bound += _above_bound(result)
        entries += result.counted
        groups += bool(result.counted)
    total = len(dump.entries) + len(dump.skipped)
    filtered = len(dump.entries) - len(chosen)
    skipped = sum(skip_reasons.values())
    if not entries:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skip_reasons.items())) or "none"
        raise DumpError(
            f"{dump.folder}: dump: expected at least one entry to evaluate, got {total} entries, {filtered} outside scope, stage or length "
            f"and {skipped} skipped ({reasons}); dump again or widen --scope, --stage and --min-seq-len"
        )
    k = sum((k for k, _ in layers.values()), PartSums())
    v = sum((v for _, v in layers.values()), PartSums())
    return OfflineResult(
        dump_dir=dump.folder,
        settings=settings,
        k=_totals(k),
        v=_totals(v),
        total_entries=total,
        filtered_entries=filtered,
        selected_entries=len(entries),
        skipped_entries=skipped,
        skip_reasons=dict(sorted(skip_reasons.items())),
        selected_layers=tuple(sorted({entry.layer for entry in entries})),
        selected_dumps=tuple(sorted({entry.run_id for entry in entries})),
        selected_groups=groups,
        selected_chunks=k.chunks,
        overlapping_entries=overlapping_entries(tuple(entries)),
        dtypes=tuple(sorted({entry.dtype for entry in entries})),
        layers=layer_rows(layers),
        above_bound=tuple(above_bound),
    )


def _above_bound(result: UnitResult) -> Iterator[AboveBound]:
    first = result.counted[0]
    end = max(entry.seq_start + entry.seq_len for entry in result.counted)
    parts: tuple[tuple[Part, PartSums], ...] = (("k", result.k), ("v", result.v))
    for part, sums in parts:
        if sums.chunks_above_bound:
            yield AboveBound(first.run_id, first.layer, part, first.seq_start, end, sums.raw_bytes, sums.payload_bytes, sums.bound_bytes)


def _totals(sums: PartSums) -> TensorTotals:
    return TensorTotals(sums.raw_bytes, sums.compressed_bytes, sums.framing_bytes, sums.hi_modes, sums.lo_modes)


def _silent(line: str) -> None:
    """Nobody listens."""
