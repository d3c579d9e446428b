"""Which entries of a dump are evaluated, and which are joined along seq before they are compressed."""

from __future__ import annotations

from h2o_gate_plugin.kv.dump import DumpEntry
from h2o_gate_plugin.offline.settings import GROUPED_MODES, EvaluatorSettings

Unit = tuple[DumpEntry, ...]
"""Entries that are compressed together, in token order; one entry in the modes that do not join."""


def select(entries: tuple[DumpEntry, ...], settings: EvaluatorSettings) -> tuple[DumpEntry, ...]:
    """The entries that scope, stage and length filters let through."""
    return tuple(
        entry
        for entry in entries
        if settings.selects_layer(entry.layer) and settings.stage in (entry.stage, "both") and settings.selects_length(entry.seq_len)
    )


def units(entries: tuple[DumpEntry, ...], settings: EvaluatorSettings) -> tuple[Unit, ...]:
    """In the joining modes entries of one run, layer, shape and word format (and stage, with ``aggregate_by_stage``), else each alone."""
    if settings.entry_mode not in GROUPED_MODES:
        return tuple((entry,) for entry in entries)
    groups: dict[tuple[str, int, int, int, str, bool], list[DumpEntry]] = {}
    for entry in entries:
        stage = entry.stage if settings.aggregate_by_stage else ""
        groups.setdefault((entry.run_id, entry.layer, entry.kv_heads, entry.head_dim, stage, entry.dtype == "bf16"), []).append(entry)
    return tuple(tuple(sorted(groups[key], key=lambda entry: (entry.seq_start, entry.seq_len))) for key in sorted(groups))


def overlapping_entries(entries: tuple[DumpEntry, ...]) -> int:
    """Entries whose tokens an earlier one of the same run and layer holds already: joined, they would flatter the ratio."""
    end: dict[tuple[str, int], int] = {}
    count = 0
    for entry in sorted(entries, key=lambda entry: (entry.run_id, entry.layer, entry.seq_start, entry.seq_len)):
        key = (entry.run_id, entry.layer)
        count += entry.seq_start < end.get(key, 0)
        end[key] = max(end.get(key, 0), entry.seq_start + entry.seq_len)
    return count
