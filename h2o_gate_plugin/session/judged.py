"""A measured case as a test sees it: ask for a gate, and the test passes, fails or is skipped by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from h2o_gate_plugin.errors import nearest
from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineSource
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GATE_NAMES, OVERALL, GateName, GateResult
from h2o_gate_plugin.gates.verdict import overall_pass
from h2o_gate_plugin.report.model import failure_line, measured_against
from h2o_gate_plugin.report.plain_text import without_commands

Record = Callable[[Sequence[GateResult]], None]


class JudgedCase:
    """``evidence`` and ``limits`` are open to tests of your own; ``require`` is what the acceptance tests call."""

    def __init__(self, evidence: CaseEvidence, limits: Limits, offline: OfflineSource, logs: Sequence[str], record: Record) -> None:
        self.evidence = evidence
        self.limits = limits
        self._offline = offline
        self._logs = tuple(logs)
        self._record = record

    @property
    def id(self) -> str:
        return self.evidence.case_id

    def gate(self, name: GateName) -> GateResult:
        """Judge one gate; it becomes part of the report."""
        if name not in GATE_NAMES:
            raise ValueError(f"{self.id}: gate: expected one of {', '.join(GATE_NAMES)}, got {name!r}; {nearest(name, GATE_NAMES)}")
        result = check(name, self.evidence, self._offline, self.limits)
        self._record((result,))
        return result

    def gates(self) -> tuple[GateResult, ...]:
        """Judge every gate."""
        return tuple(self.gate(name) for name in GATE_NAMES)

    def require(self, name: GateName) -> None:
        """Fail the test, in one line, unless the gate holds; skip it when the gate is off, or has no evidence and none is required."""
        result = self.gate(name)
        if result.status in ("OFF", "UNPROVEN"):
            pytest.skip(f"{name} is {result.status.lower()}: {result.reason}")
        if result.failed:
            pytest.fail(without_commands(failure_line(self.id, result, self._logs)), pytrace=False)

    def require_overall(self) -> None:
        """Fail the test unless every gate was judged and every enabled one holds; skip it when all are off."""
        gates = self.gates()
        verdict = overall_pass(gates)
        if verdict is None:
            pytest.skip(f"{OVERALL}: every gate is off")
        if not verdict:
            failed = "; ".join(f"{gate.name} {measured_against(gate)}" for gate in gates if gate.failed)
            pytest.fail(f"{OVERALL}: {self.id}: false; {failed}", pytrace=False)
