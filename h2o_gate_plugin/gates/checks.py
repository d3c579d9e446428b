"""The six gates: pure functions of evidence and limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from h2o_gate_plugin.gates.decode_drop import estimate_drop, is_undecided
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, OfflineSource, Row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GateName, GateResult, Status

LOSSY, DECOMP_US, QUEUE_PEAK, FALLBACK = "h2o_lossy", "h2o_lossless_decomp_us", "h2o_lossless_queue_peak", "h2o_lossless_fallback"


def _holds(value: float, limit: float, direction: str) -> bool:
    return value >= limit if direction == ">=" else value <= limit


def _decided(blank: GateResult, value: float, rows: tuple[Row, ...] = (), reason: str | None = None) -> GateResult:
    """PASS or FAIL of ``value`` against the limit of ``blank``; a blank without a limit passes on evidence alone."""
    holds = blank.limit is None or _holds(value, blank.limit, blank.direction)
    status: Status = "PASS" if holds else "FAIL"
    return replace(blank, status=status, value=value, rows=tuple(row.place for row in rows), reason=reason)


def _missing(rows: tuple[Row, ...], column: str, failures: tuple[str, ...]) -> str | None:
    """Why ``column`` cannot be judged over all rows; None when every row has it."""
    if failures:
        return failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "")
    if not rows:
        return "no rows of the candidate"
    without = [row for row in rows if row.mean(column) is None]
    if without:
        return f"{column}: no figure in {len(without)} of {len(rows)} rows, first {without[0].place}"
    return None


def check_lossy(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """h2o_lossy of the best configuration of a sweep, whose worst row decides; ``best-row``: the best row of all."""
    literal = limits.aggregate == "best-row"
    rule = "best row (--aggregate=best-row)" if literal else "worst row of the best configuration"
    blank = GateResult("lossy_pass", "NOT_MEASURED", None, limits.min_lossy, "ratio", ">=", rule, LOSSY)
    if limits.min_lossy is None:
        return replace(blank, status="OFF")
    if (missing := _missing(evidence.rows, LOSSY, evidence.failures)) is not None:
        return replace(blank, reason=missing)
    by_configuration: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row in evidence.rows:
        by_configuration["" if literal else row.configuration].append((row.mean(LOSSY) or 0.0, row))
    pick: Callable[..., tuple[float, Row]] = max if literal else min
    deciding = [pick(pairs, key=lambda pair: pair[0]) for pairs in by_configuration.values()]
    value, row = max(deciding, key=lambda pair: pair[0])
    return _decided(blank, value, (row,))


def check_online_lossless(offline: OfflineSource, limits: Limits) -> GateResult:
    """The offline evaluator's online_sim ratio over the KV dump; no other ratio can stand in for it."""
    blank = GateResult(
        "lossless_online_pass", "NOT_MEASURED", None, limits.min_online_lossless, "ratio", ">=", "whole dump", "offline online_sim"
    )
    if limits.min_online_lossless is None:
        return replace(blank, status="OFF")
    found: OfflineEvidence = offline()
    blank = replace(blank, source=f"offline online_sim, {found.source}")
    if found.online_sim_ratio is None:
        return replace(blank, reason=found.reason or "the evaluator gave no online_sim ratio")
    return _decided(blank, found.online_sim_ratio)


def check_decode_drop(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """1 - exp(mean log speed ratio) over the pairs of each prompt length; the worst prompt length decides."""
    fixed = limits.decode_baseline_tps
    source = "interleaved baseline of the same batch" if fixed is None else f"fixed baseline {fixed:g} tok/s"
    blank = GateResult(
        "decode_pass", "NOT_MEASURED", None, limits.max_decode_drop, "share", "<=", "mean over pairs, worst prompt length", source
    )
    if limits.max_decode_drop is None:
        return replace(blank, status="OFF")
    if evidence.failures or not evidence.rows:
        return replace(blank, reason=_missing(evidence.rows, "decode speed", evidence.failures))
    estimate = estimate_drop(evidence.rows, evidence.baseline_rows, fixed)
    if estimate.unpaired or estimate.worst is None:
        return replace(blank, reason="; ".join(estimate.unpaired[:2]) or "no decode speeds")
    worst = estimate.worst
    pairs = "1 pair" if worst.pairs == 1 else f"{worst.pairs} pairs"
    spread = f"{pairs}, drops {worst.least:.3f} to {worst.most:.3f}"
    if fixed is None and is_undecided(estimate, limits.max_decode_drop):
        spread += ", too far apart to be sure: use a quieter host or more --decode-max-pairs"
    return _decided(blank, worst.drop, worst.rows, spread)


def check_decomp(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Every row shows decompression (> 0 us), and its worst row is within the budget when there is one."""
    blank = GateResult("runtime_decomp_pass", "NOT_MEASURED", None, limits.max_decomp_us, "us", "<=", "worst row, every row > 0", DECOMP_US)
    if (missing := _missing(evidence.rows, DECOMP_US, evidence.failures)) is not None:
        return replace(blank, reason=missing)
    idle = [row for row in evidence.rows if not (row.mean(DECOMP_US) or 0.0) > 0]
    if idle:
        reason = f"nothing was decompressed in {len(idle)} of {len(evidence.rows)} rows, first {idle[0].place}"
        return replace(blank, status="FAIL", value=0.0, rows=tuple(row.place for row in idle), reason=reason)
    return _worst_row(blank, evidence.rows, DECOMP_US)


def check_queue_peak(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Deepest queue of any row."""
    return _budget("runtime_queue_peak_pass", QUEUE_PEAK, limits.max_queue_peak, evidence)


def check_fallback(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """Cold blocks that ended not compressed or not exact, any row."""
    return _budget("runtime_fallback_pass", FALLBACK, limits.max_fallback, evidence)


def _budget(name: GateName, column: str, limit: float | None, evidence: CaseEvidence) -> GateResult:
    blank = GateResult(name, "NOT_MEASURED", None, limit, "blocks", "<=", "worst row", column)
    if limit is None:
        return replace(blank, status="OFF")
    if (missing := _missing(evidence.rows, column, evidence.failures)) is not None:
        return replace(blank, reason=missing)
    return _worst_row(blank, evidence.rows, column)


def _worst_row(blank: GateResult, rows: tuple[Row, ...], column: str) -> GateResult:
    pick: Callable[..., Row] = min if blank.direction == ">=" else max
    worst = pick(rows, key=lambda row: row.mean(column) or 0.0)
    return _decided(blank, worst.mean(column) or 0.0, (worst,))


_LIMIT_OF: Mapping[GateName, str] = {
    "lossy_pass": "min_lossy",
    "lossless_online_pass": "min_online_lossless",
    "decode_pass": "max_decode_drop",
    "runtime_decomp_pass": "max_decomp_us",
    "runtime_queue_peak_pass": "max_queue_peak",
    "runtime_fallback_pass": "max_fallback",
}


def check(name: GateName, evidence: CaseEvidence, offline: OfflineSource, limits: Limits) -> GateResult:
    """Judge one gate; the result says where its limit came from."""
    if name == "lossless_online_pass":
        result = check_online_lossless(offline, limits)
    else:
        checks: Mapping[str, Callable[[CaseEvidence, Limits], GateResult]] = {
            "lossy_pass": check_lossy,
            "decode_pass": check_decode_drop,
            "runtime_decomp_pass": check_decomp,
            "runtime_queue_peak_pass": check_queue_peak,
            "runtime_fallback_pass": check_fallback,
        }
        result = checks[name](evidence, limits)
    origin = limits.origin(_LIMIT_OF[name])
    reason = f"switched off by {origin}" if result.status == "OFF" else result.reason
    return replace(result, limit_origin=origin, reason=reason)
