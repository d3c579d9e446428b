"""The rows that the gates read, as a small table: speeds, ratios, and the evidence that the engine prints."""

from __future__ import annotations

from collections.abc import Mapping

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.bench_columns import COLUMNS
from h2o_gate_plugin.report.model import Report

SHOWN: Mapping[str, str] = {
    "h2o_lossy": "lossy",
    "h2o_lossless": "lossless",
    "h2o_lossless_decomp_us": "decomp us",
    "kv_range_full_mb": "H2O range MiB full",
    "kv_range_resident_mb": "resident",
    "lossless_coverage": "coverage",
    "kv_mismatch_blocks": "mismatches",
    "kl_mean": "KL nats",
    "top1_agree": "top-1",
    "recall_full": "recall full",
    "recall_kv": "recall KV",
    "recall_random": "random",
    "recall_window": "newest only",
}
"""Column of llm_bench's table → heading; columns that no row has are left out."""


def measured_table(report: Report) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(headings, lines): one line per candidate row."""
    rows = [(case.id, row) for case in report.cases for row in case.rows]
    columns = [name for name in SHOWN if any(name in row.measures for _, row in rows)]
    headings = ("case", "prompt", "gen", "prefill tok/s", "decode tok/s", *(SHOWN[name] for name in columns))
    return headings, tuple((case_id, *_cells(row, columns)) for case_id, row in rows)


def _cells(row: BenchRow, columns: list[str]) -> tuple[str, ...]:
    lengths = ("-" if count is None else str(count) for count in (row.prompt_tokens, row.gen_tokens))
    speeds = (_cell(row.prefill_tps, 1), _cell(row.decode_tps, 1))
    return (*lengths, *speeds, *(_cell(row.measures.get(name), COLUMNS[name].decimals) for name in columns))


def _cell(measure: Measure | None, decimals: int) -> str:
    if measure is None:
        return "-"
    spread = f" ± {measure.sd:.{decimals}f}" if measure.sd else ""
    return f"{measure.mean:.{decimals}f}{spread}"
