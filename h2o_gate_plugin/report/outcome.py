"""The verdict as one word and as an exit code: a failed gate, an engine that broke and nothing to judge are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.report.model import Report

Outcome = Literal["pass", "not_judged", "gate_failed", "nothing_measured", "engine_broken"]
EXIT_CODES: Mapping[Outcome, ExitCode] = {
    "pass": ExitCode.OK,
    "not_judged": ExitCode.OK,
    "gate_failed": ExitCode.GATE_FAILED,
    "nothing_measured": ExitCode.NOTHING_MEASURED,
    "engine_broken": ExitCode.ENGINE_BROKEN,
}


def outcome(report: Report) -> Outcome:
    """``not_judged``: no gate failed, but not every gate of every case was judged (one gate asked for, an interrupted run)."""
    failed = [gate for case in report.cases for gate in case.gates if gate.failed]
    if not failed:
        return "pass" if report.overall_pass is True else "not_judged"
    if any(case.rows for case in report.cases) or any(gate.status != "NOT_MEASURED" for gate in failed):
        return "gate_failed"
    return "engine_broken" if any(case.failures for case in report.cases) else "nothing_measured"
