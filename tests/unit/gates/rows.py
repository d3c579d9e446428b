"""Rows and evidence for the tests of the gates: a good row of joint scope in full mode, and what is laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.bench_columns import NOT_MEASURED_CELL
from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, Row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.log_scan import LogFacts
from h2o_gate_plugin.gates.result import GateName, GateResult
from h2o_gate_plugin.kv_options import KvValue, suite_values

Cell = float | str | tuple[float, float] | None
"""A number, text, mean and sd, or None for a column that is not printed; "n/a" for one without a figure."""

GOOD: Mapping[str, Cell] = {
    "h2o_keep": 0.3125,
    "h2o_lossy": 3.2,
    "h2o_evict_us": 80.0,
    "h2o_lossless_decomp_us": 500.0,
    "h2o_lossless_queue_peak": 1.0,
    "h2o_lossless_fallback": 0.0,
    "h2o_lossless_backpressure_skip": 0.0,
    "h2o_lossless_async_wait_us": 100.0,
    "h2o_lossless_decode_cache_hit": 40.0,
    "h2o_lossless_decode_cache_miss": 4.0,
    "kv_peak_mb": 4.0,
    "kv_range_full_mb": 3.2,
    "kv_range_resident_mb": 0.8,
    "kv_range_decode_mb": 0.8,
    "lossless_coverage": 0.97,
    "kv_mismatch_blocks": 0.0,
    "decode_tokens": 128.0,
    "prompt_kind": "text",
    "kept_tokens": "640,640,205,205",
    "lossless_front_mb": 0.5,
    "lossless_kept_mb": 0.25,
    "turns_mismatch_rows": 0.0,
    "nll_full": 2.0,
    "nll_kv": 2.1,
    "kl_mean": 0.1,
    "kl_masked": 2e-8,
    "top1_agree": 0.9,
    "recall_full": 1.0,
    "recall_kv": 0.95,
    "recall_random": 0.3,
    "recall_window": 0.2,
}
KV: Mapping[str, KvValue] = {"kv_lossless_kept_sample_layers": 0, "kv_lossless_kept_sample_token_interval": 1}


def a_row(
    over: Mapping[str, Cell] | None = None,
    *,
    prompt: int = 512,
    gen: int = 128,
    pair: int = 1,
    kv: Mapping[str, KvValue] | None = KV,
    log: LogFacts | None = None,
    **cells: Cell,
) -> Row:
    """``over`` and ``cells`` are laid over GOOD, ``kv`` over KV; ``kv`` None: the config is not known."""
    shown = {name: cell for name, cell in {**GOOD, **(over or {}), **cells}.items() if cell is not None}
    measures = {
        name: Measure(*cell) if isinstance(cell, tuple) else Measure(cell, 0.0) for name, cell in shown.items() if not isinstance(cell, str)
    }
    text = {name: cell if isinstance(cell, str) else f"{measures[name].mean:.8f}" for name, cell in shown.items()}
    bench = BenchRow("/logs/run.log", 3, text, prompt, gen, Measure(2000.0, 1.0), Measure(200.0, 1.0), measures)
    values = None if kv is None else suite_values({**KV, **kv}, "test")
    return Row("a", f"run-p{prompt}", pair, bench, values, 2, log)


def a_case(*rows: Row, mode: str = "full", failures: tuple[str, ...] = (), baseline_peak: float | None = 4.0) -> CaseEvidence:
    cells: dict[str, Cell] = {"kv_peak_mb": baseline_peak}
    baseline = tuple(a_row(cells, prompt=row.bench.prompt_tokens or 0, pair=row.pair or 1) for row in rows)
    return CaseEvidence("m3/joint_full-1", mode, rows, baseline, failures)


def judged(name: GateName, case: CaseEvidence, **limits: float | None) -> GateResult:
    return check(name, case, lambda: OfflineEvidence(1.4, 1.5, "test"), replace(Limits(), **limits))  # type: ignore[arg-type]


def required(name: GateName, case: CaseEvidence) -> GateResult:
    return check(name, case, lambda: OfflineEvidence(1.4, 1.5, "test"), Limits(require_evidence=frozenset({name})))


NA = NOT_MEASURED_CELL
