"""The gates on the contract's own columns and on the offline result: ratio, decompression, queue, fallback."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, OfflineSource, Row
from h2o_gate_plugin.gates.judging import blank, decided, missing, worst_row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GateName, GateResult
from h2o_gate_plugin.gates.scope import never_switched_on

LOSSY = "h2o_lossy"
DECOMP_US, QUEUE_PEAK, FALLBACK = "h2o_lossless_decomp_us", "h2o_lossless_queue_peak", "h2o_lossless_fallback"


def check_lossy(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """h2o_lossy of the best configuration of a sweep, whose worst row decides; ``best-row``: the best row of all.

    A row in which nothing was ever evicted is no ratio of 1.0: it is not measured.
    """
    literal = limits.aggregate == "best-row"
    rule = "best row (--aggregate=best-row)" if literal else "worst row of the best configuration"
    start = blank("lossy_pass", limits.min_lossy, "ratio", ">=", rule, LOSSY)
    if limits.min_lossy is None:
        return start
    if not evidence.failures and (idle := never_switched_on(evidence.rows)) is not None:
        return replace(start, reason=idle)
    if (gap := missing(evidence.rows, LOSSY, evidence.failures)) is not None:
        return replace(start, reason=gap)
    by_configuration: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row in evidence.rows:
        by_configuration["" if literal else row.configuration].append((row.mean(LOSSY) or 0.0, row))
    pick: Callable[..., tuple[float, Row]] = max if literal else min
    deciding = [pick(pairs, key=lambda pair: pair[0]) for pairs in by_configuration.values()]
    value, row = max(deciding, key=lambda pair: pair[0])
    return decided(start, value, (row,))


def check_online_lossless(offline: OfflineSource, limits: Limits) -> GateResult:
    """The offline evaluator's online_sim ratio over the KV dump; no other ratio can stand in for it."""
    start = blank("lossless_online_pass", limits.min_online_lossless, "ratio", ">=", "whole dump", "offline online_sim")
    if limits.min_online_lossless is None:
        return start
    found: OfflineEvidence = offline()
    start = replace(start, source=f"offline online_sim, {found.source}")
    if found.online_sim_ratio is None:
        return replace(start, reason=found.reason or "the evaluator gave no online_sim ratio")
    return decided(start, found.online_sim_ratio)


def check_decomp(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Every row shows decompression (> 0 us), and its worst row is within the budget when there is one."""
    start = GateResult("runtime_decomp_pass", "NOT_MEASURED", None, limits.max_decomp_us, "us", "<=", "worst row, every row > 0", DECOMP_US)
    if (gap := missing(evidence.rows, DECOMP_US, evidence.failures)) is not None:
        return replace(start, reason=gap)
    idle = [row for row in evidence.rows if not (row.mean(DECOMP_US) or 0.0) > 0]
    if idle:
        reason = f"nothing was decompressed in {len(idle)} of {len(evidence.rows)} rows, first {idle[0].place}"
        return replace(start, status="FAIL", value=0.0, rows=tuple(row.place for row in idle), reason=reason)
    return worst_row(start, evidence.rows, DECOMP_US)


def check_queue_peak(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Deepest queue of any row."""
    return _budget("runtime_queue_peak_pass", QUEUE_PEAK, limits.max_queue_peak, evidence)


def check_fallback(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Cold blocks that ended not compressed or not exact, any row."""
    return _budget("runtime_fallback_pass", FALLBACK, limits.max_fallback, evidence)


def _budget(name: GateName, column: str, limit: float | None, evidence: CaseEvidence) -> GateResult:
    start = blank(name, limit, "blocks", "<=", "worst row", column)
    if limit is None:
        return start
    if (gap := missing(evidence.rows, column, evidence.failures)) is not None:
        return replace(start, reason=gap)
    return worst_row(start, evidence.rows, column)
