"""One planted fault at a time: the gate that must turn red does, and the same run without the fault is green."""

from __future__ import annotations

import pytest

from .catalogue import CONTROLS, FAULTS, Fault
from .gate_runs import GateRuns
from .table import Row


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_turns_its_gate_red(fault: Fault, gate_runs: GateRuns, rows: list[Row]) -> None:
    control = f"control_{fault.control}"
    if fault.alone:
        for name, arrange in ((control, CONTROLS[fault.control]), (fault.name, fault.arrange)):
            gate_runs.wait()
            gate_runs.start(name, arrange)
    row = Row(fault, gate_runs.outcome(fault.name), gate_runs.outcome(control))
    rows.append(row)
    seen = {gate.name: (gate.status, gate.shown, gate.reason) for gate in row.outcome.gates.values()}
    assert row.control_green, f"the run without the fault is not green: {row.control.red}"
    if fault.gap:
        assert not row.caught, "a gate catches this fault now: take its gap out of the catalogue"
        pytest.xfail(f"no gate catches this as yet; what would: {fault.gap}")
    assert row.caught, f"expected {dict(fault.expected)} with {fault.says!r} in the reason, got {seen}"
