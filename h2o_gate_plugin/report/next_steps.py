"""The commands to type after a failure, with the options that were typed; those of environment and ini stay in force by themselves."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.result import GateResult, Status
from h2o_gate_plugin.report.model import CaseReport, Report, deciding_log, failure_lines, short_path
from h2o_gate_plugin.report.next_command import CASE_OPTIONS, ENGINE_OPTIONS, typed_options

OF_THE_MEASUREMENT = (*ENGINE_OPTIONS, "--dump-dir")
"""Kept artifacts have their own."""


@dataclass(frozen=True)
class Failure:
    """A gate that failed, or all that have no evidence for the same reason; ``line`` as `model.failure_lines` has it."""

    status: Status
    line: str
    commands: tuple[str, ...]


def judge_again(report: Report, base: Path, marks: str | None = None, case_id: str | None = None) -> str | None:
    """Without measuring anything, all or one gate of one case; None where kept artifacts cannot be found again.

    Paths are relative to ``base``, where the command is typed.
    """
    typed = typed_options(report)
    if not typed.keys().isdisjoint(CASE_OPTIONS):
        return None
    kept = [f"--h2o-from={short_path(report.kept_in, base)}"]
    kept += [f"{flag}={short_path(Path(value), base)}" for flag, value in typed.items() if flag not in OF_THE_MEASUREMENT]
    return _pytest(marks or _packs(report), case_id, kept)


def failures_of(report: Report, case: CaseReport, base: Path) -> tuple[Failure, ...]:
    """``line`` names logs relative to where the report lies, ``commands`` relative to ``base``, where they are typed."""
    failed = [gate for gate in case.gates if gate.failed]
    reasons = Counter(gate.reason for gate in failed if gate.status == "NOT_MEASURED")
    groups = [[gate] for gate in failed if gate.status != "NOT_MEASURED" or reasons[gate.reason] == 1]
    for reason, count in reasons.items():
        if count > 1:
            groups.append([gate for gate in failed if gate.status == "NOT_MEASURED" and gate.reason == reason])
    lines = failure_lines(case, report.out_dir)
    return tuple(Failure(group[0].status, line, _after(report, case, group, base)) for group, line in zip(groups, lines, strict=True))


def _after(report: Report, case: CaseReport, gates: Sequence[GateResult], base: Path) -> tuple[str, ...]:
    """Look at the log that decided; then this gate of this case again, or the case where many lack evidence.

    Measured again where this run measured; kept artifacts are judged again, for how they were measured is not known here.
    """
    log = deciding_log(gates[0], case.logs)
    look = None if log is None else shlex.join(("less", short_path(Path(log), base)))
    marks = case.pack if len(gates) > 1 else f"{case.pack} and {GATES[gates[0].name].marker}"
    if report.kept_in == report.out_dir:
        again: str | None = _pytest(
            marks, case.id, [f"{flag}={short_path(Path(value), base)}" for flag, value in typed_options(report).items()]
        )
    else:
        again = judge_again(report, base, marks, case.id)
    return tuple(command for command in (look, again) if command is not None)


def _pytest(marks: str, case_id: str | None, options: Sequence[str]) -> str:
    return shlex.join(("pytest", "-m", marks, *(() if case_id is None else ("-k", case_id)), *options))


def _packs(report: Report) -> str:
    return report.pack.replace("+", " or ")
