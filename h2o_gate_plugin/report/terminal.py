"""The section that a run ends with in the terminal, as lines with a colour."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from h2o_gate_plugin.report.model import CaseReport, Report, case_status, failure_lines, gate_line, shared_notes, short_path, verdict_word

Colour = Literal["", "green", "red", "yellow", "bold"]
COLOUR_OF: dict[str, Colour] = {
    "PASS": "green",
    "FAIL": "red",
    "NOT MEASURED": "red",
    "INCONCLUSIVE": "red",
    "UNPROVEN": "yellow",
    "OFF": "yellow",
    "PARTIAL": "yellow",
}


@dataclass(frozen=True)
class Line:
    text: str
    colour: Colour = ""


def terminal_lines(report: Report, cwd: Path) -> tuple[Line, ...]:
    lines = [Line(f"{'case / gate':<28}{'status':<13}{'value':>12}{'limit':>14}{'margin':>12}  unit", "bold")]
    for case in report.cases:
        lines += _case_lines(case)
    for note, cases in shared_notes(report):
        lines.append(Line(f"note: {note} [{_named(cases, len(report.cases))}]", "yellow"))
    lines += [Line(line, "red") for case in report.cases for line in failure_lines(case, cwd)]
    lines += _failed_processes(report, cwd)
    why = f" ({report.incomplete})" if report.overall_pass is None and report.incomplete else ""
    colour: Colour = {True: "green", False: "red", None: "yellow"}[report.overall_pass]  # type: ignore[assignment]
    lines += [
        Line(f"overall_pass: {verdict_word(report.overall_pass)}{why}", colour),
        Line(f"report: {short_path(report.out_dir / 'summary.md', cwd)} (and summary.json, h2o_metrics.csv)"),
        Line(f"artifacts: {short_path(report.kept_in, cwd)}"),
    ]
    if report.overall_pass is not True:
        lines.append(Line(f"gate again without measuring: pytest -m {report.pack} --h2o-from {short_path(report.kept_in, cwd)}"))
    return tuple(lines)


def _case_lines(case: CaseReport) -> list[Line]:
    status = case_status(case.overall_pass)
    rows = "1 row" if len(case.rows) == 1 else f"{len(case.rows)} rows"
    lines = [Line(f"{case.id:<28}{status:<13}{case.runtime_mode}, {rows}", COLOUR_OF[status])]
    for gate in case.gates:
        shown = gate_line(gate)
        colour: Colour = "" if shown.status == "PASS" else COLOUR_OF[shown.status]
        lines.append(
            Line(f"  {shown.gate:<26}{shown.status:<13}{shown.value:>12}{shown.limit:>14}{shown.margin:>12}  {shown.unit}", colour)
        )
    return lines


def _failed_processes(report: Report, cwd: Path) -> list[Line]:
    """argv, seconds and last lines of each failed process; those that ended alike are told once."""
    lines: list[Line] = []
    told: set[tuple[str, ...]] = set()
    for case in report.cases:
        for process in case.failures:
            lines.append(Line(f"failed process of {case.id} after {process.seconds:.1f} s: {process.line}", "bold"))
            if process.tail in told:
                lines.append(Line(f"  the same last lines as above; all of them in {short_path(process.log, cwd)}"))
                continue
            told.add(process.tail)
            lines.append(Line(f"  argv: {shlex.join(process.argv)}"))
            lines += [Line(f"  | {line}") for line in process.tail or ("(no output)",)]
    return lines


def _named(ids: tuple[str, ...], of: int) -> str:
    if len(ids) == of and of > 1:
        return "every case"
    return ", ".join(ids)
