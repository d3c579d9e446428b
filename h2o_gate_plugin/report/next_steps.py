"""What to type after a verdict, with the options that were typed; those of environment and ini stay in force by themselves."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.measurement import OFFLINE_FILE
from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.result import GateResult, Status
from h2o_gate_plugin.report.model import CaseReport, Report, deciding_log, failure_lines, short_path

TYPED = "command line "
ENGINE_OPTIONS = ("--llm-bench", "--model-config", "--prompt-command")
"""Of no use where nothing is started."""
FOLDERS = ("--h2o-out", "--h2o-from")
"""The next command's own affair."""


@dataclass(frozen=True)
class Failure:
    """A gate that failed, or all that have no evidence for the same reason; ``line`` as `model.failure_lines` has it."""

    status: Status
    line: str
    commands: tuple[str, ...]


def next_command(report: Report, base: Path) -> str | None:
    """The one command after the verdict: look at the process that broke, else judge what was kept again, or measure; None after a pass.

    Paths are relative to ``base``, where it is typed.
    """
    failed = [gate for case in report.cases for gate in case.gates if gate.failed]
    if not failed:
        return None
    broken = [process for case in report.cases for process in case.failures]
    if broken:
        return shlex.join(("less", short_path(broken[0].log, base)))
    names = {gate.name for gate in failed}
    marks = f"{report.pack} and {GATES[names.pop()].marker}" if len(names) == 1 and "+" not in report.pack else None
    found = report.kept_in == report.out_dir or any(case.rows for case in report.cases)
    noisy = all(gate.status == "INCONCLUSIVE" for gate in failed)  # only more pairs decide
    return judge_again(report, base, marks) if found and not noisy else measure_again(report, base, marks)


def judge_again(report: Report, base: Path, marks: str | None = None, case_id: str | None = None) -> str:
    """Without measuring anything: all that was judged, or the tests that ``marks`` and ``case_id`` name."""
    typed = {flag: value for flag, value in _typed(report).items() if flag not in ENGINE_OPTIONS}
    if (report.kept_in / OFFLINE_FILE).is_file():  # it needs no dump, and refuses one
        typed.pop("--dump-dir", None)
    return _pytest(marks or _packs(report), case_id, {"--h2o-from": str(report.kept_in), **typed}, base)


def measure_again(report: Report, base: Path, marks: str | None = None, case_id: str | None = None) -> str:
    return _pytest(marks or _packs(report), case_id, _typed(report), base)


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
    look = () if log is None else (shlex.join(("less", short_path(Path(log), base))),)
    marks = case.pack if len(gates) > 1 else f"{case.pack} and {GATES[gates[0].name].marker}"
    again = measure_again if report.kept_in == report.out_dir else judge_again
    return (*look, again(report, base, marks, case.id))


def _typed(report: Report) -> dict[str, str]:
    return {flag: value for flag, value, origin in report.settings if origin.startswith(TYPED) and flag not in FOLDERS}


def _pytest(marks: str, case_id: str | None, options: dict[str, str], base: Path) -> str:
    named = () if case_id is None else ("-k", case_id)
    return shlex.join(("pytest", "-m", marks, *named, *(f"{flag}={short_path(Path(value), base)}" for flag, value in options.items())))


def _packs(report: Report) -> str:
    return report.pack.replace("+", " or ")
