"""The table of gates: name, marker, limits, check; and the one door through which a gate is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from h2o_gate_plugin.gates import columns, integrity
from h2o_gate_plugin.gates.decode_gate import check_decode_drop
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineSource
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.quality import QUALITY_LIMITS, check_quality
from h2o_gate_plugin.gates.result import GateName, GateResult, Status

Check = Callable[[CaseEvidence, Limits], GateResult]


@dataclass(frozen=True)
class Gate:
    """``marker``: of the gate's acceptance test, with what it says about it. ``limits``: fields of Limits; the first is the value's own.

    ``check`` None: the gate reads the offline result alone.
    """

    name: GateName
    marker: str
    about: str
    limits: tuple[str, ...]
    check: Check | None


_ALL = (
    Gate("lossy_pass", "lossy", "h2o_lossy of the candidate is large enough", ("min_lossy",), columns.check_lossy),
    Gate("lossless_online_pass", "online_lossless", "online_sim ratio of the offline evaluator is large enough",
         ("min_online_lossless",), None),
    Gate("decode_pass", "decode_drop", "decode is not slower than the baseline by more than the limit",
         ("max_decode_drop",), check_decode_drop),
    Gate("runtime_decomp_pass", "decomp", "decompression happened, and within its budget", ("max_decomp_us",), columns.check_decomp),
    Gate("runtime_queue_peak_pass", "queue_peak", "the encode queue stays short", ("max_queue_peak",), columns.check_queue_peak),
    Gate("runtime_fallback_pass", "fallback", "no cold block ends not compressed or not exact", ("max_fallback",), columns.check_fallback),
    Gate("resident_pass", "resident", "KV memory really shrinks, and its peak is not above the baseline's",
         ("min_resident", "min_joint_resident"), integrity.check_resident),
    Gate("coverage_pass", "coverage", "all cold KV is packed or proven where the configuration claims it",
         ("min_coverage",), integrity.check_coverage),
    Gate("scope_pass", "scope", "every layer and every part of the lossless scope is treated as configured",
         ("max_scope_violations",), integrity.check_scope),
    Gate("kv_exact_pass", "kv_exact", "KV is bit for bit exact, over two turns too", ("max_mismatches",), integrity.check_kv_exact),
    Gate("repeats_pass", "repeats", "repeats give the same ratios", ("max_repeat_spread",), integrity.check_repeats),
    Gate("quality_pass", "quality", "the text stays close to that of the full cache, and heavy hitters are kept",
         QUALITY_LIMITS, check_quality),
    Gate("tokens_pass", "tokens", "as many tokens are decoded as the speeds are divided by",
         ("max_missing_tokens",), integrity.check_tokens),
    Gate("prompt_pass", "prompt_kind", "prompts are real text", ("max_constant_prompts",), integrity.check_prompt),
    Gate("async_wait_pass", "async_wait", "a run hardly waits for the encode workers", ("max_async_wait_us",), integrity.check_async_wait),
    Gate("backpressure_pass", "backpressure", "no group is refused by a full queue", ("max_backpressure",), integrity.check_backpressure),
    Gate("decode_cache_pass", "decode_cache", "store mode decodes what it reads, and its cache serves",
         ("min_decode_cache_reads",), integrity.check_decode_cache),
    Gate("log_pass", "log_scan", "no line of the output tells of broken KV", ("max_log_errors",), integrity.check_log),
)  # fmt: skip

GATES: Mapping[GateName, Gate] = {gate.name: gate for gate in _ALL}
"""In the order of GATE_NAMES."""


def check(name: GateName, evidence: CaseEvidence, offline: OfflineSource, limits: Limits) -> GateResult:
    """Judge one gate; the result says where its limit came from. Evidence that is required and not there is NOT_MEASURED.

    Of an unfinished measurement a gate may fail, but never pass: rows to come may be worse.
    """
    gate = GATES[name]
    result = columns.check_online_lossless(offline, limits) if gate.check is None else gate.check(evidence, limits)
    if result.status == "UNPROVEN" and name in limits.require_evidence:
        required = f"{result.reason}; {limits.origin('require_evidence')} asks for it"
        result = replace(result, status="NOT_MEASURED", reason=required)
    if evidence.unfinished is not None and gate.check is not None:
        result = _so_far(result, evidence.unfinished)
    origin = result.limit_origin or limits.origin(gate.limits[0])
    reason = result.reason or (f"switched off by {origin}" if result.status == "OFF" else None)
    return replace(result, limit_origin=origin, reason=reason)


def _so_far(result: GateResult, unfinished: str) -> GateResult:
    if result.status not in ("PASS", "INCONCLUSIVE", "NOT_MEASURED"):
        return result
    held = "holds so far, but " if result.status == "PASS" else ""
    status: Status = "INCONCLUSIVE" if result.status == "PASS" else result.status
    reason = f"{held}{unfinished}" + (f"; {result.reason}" if result.reason else "")
    return replace(result, status=status, reason=reason, tolerated=False)
