"""From gate results to ``overall_pass``: true only when every gate was judged and every enabled one holds."""

from __future__ import annotations

from collections.abc import Iterable

from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineSource
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GATE_NAMES, GateResult


def judge_all(evidence: CaseEvidence, offline: OfflineSource, limits: Limits) -> tuple[GateResult, ...]:
    return tuple(check(name, evidence, offline, limits) for name in GATE_NAMES)


def overall_pass(gates: Iterable[GateResult]) -> bool | None:
    """False: an enabled gate failed or has no evidence. None: not every gate was judged, or none is enabled. True: all hold."""
    judged = {gate.name: gate for gate in gates}
    if any(gate.failed for gate in judged.values()):
        return False
    complete = set(judged) == set(GATE_NAMES) and any(gate.enabled for gate in judged.values())
    return True if complete else None


def combine(verdicts: Iterable[bool | None], complete: bool) -> bool | None:
    """The verdict over cases; ``complete``: every selected case of a whole pack was judged."""
    verdicts = tuple(verdicts)
    if False in verdicts:
        return False
    return True if complete and verdicts and None not in verdicts else None
