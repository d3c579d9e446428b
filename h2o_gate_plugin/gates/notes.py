"""What a reader of a verdict should know beside it: budgets that are nearly used up, figures that are reported and not gated."""

from __future__ import annotations

from collections.abc import Sequence

from h2o_gate_plugin.gates.evidence import CaseEvidence
from h2o_gate_plugin.gates.result import GateName, GateResult

BUDGETS: tuple[GateName, ...] = ("runtime_decomp_pass", "runtime_queue_peak_pass", "async_wait_pass", "backpressure_pass")
LOW_HEADROOM = 0.8
"""Share of a budget from which on a pass is told to be close."""


def notes_on(evidence: CaseEvidence, gates: Sequence[GateResult]) -> tuple[str, ...]:
    return (*_low_headroom(gates), *_unproven(gates), *_first_time(evidence))


def _low_headroom(gates: Sequence[GateResult]) -> tuple[str, ...]:
    close = [
        (gate, gate.value / gate.limit)
        for gate in gates
        if gate.name in BUDGETS
        and gate.status == "PASS"
        and gate.value is not None
        and gate.limit
        and gate.value > LOW_HEADROOM * gate.limit
    ]
    return tuple(f"low headroom: {gate.name} used {share:.0%} of its budget of {gate.limit:g} {gate.unit}" for gate, share in close)


def _unproven(gates: Sequence[GateResult]) -> tuple[str, ...]:
    """One line for all gates without evidence, so that a pass is not read as more than it is."""
    unproven = [gate.name for gate in gates if gate.status == "UNPROVEN"]
    return (f"unproven (--require-evidence makes it fail): {', '.join(unproven)}",) if unproven else ()


def _first_time(evidence: CaseEvidence) -> tuple[str, ...]:
    """No policy can keep what nobody has asked for yet: reported, never gated."""
    rows = [row for row in evidence.rows if row.shows("recall_first_full") and row.shows("recall_first_kv")]
    if not rows:
        return ()
    worst = min(rows, key=lambda row: row.mean("recall_first_kv") or 0.0)
    kept, full = worst.mean("recall_first_kv") or 0.0, worst.mean("recall_first_full") or 0.0
    return (f"reported, not gated: pairs asked for the first time after eviction are recalled {kept:.2f}, with the full cache {full:.2f}",)
