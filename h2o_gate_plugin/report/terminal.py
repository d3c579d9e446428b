"""The section that a run ends with in the terminal, as lines with a colour: short on success, complete on failure."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from h2o_gate_plugin.gates.result import GateName, GateResult
from h2o_gate_plugin.report.model import (
    MARKDOWN_FILE,
    METRICS_FILE,
    PAGE_FILE,
    SUMMARY_FILE,
    CaseReport,
    Report,
    case_status,
    failure_lines,
    gate_line,
    relative_margin,
    shared_notes,
    short_path,
    verdict_word,
)
from h2o_gate_plugin.report.next_steps import next_command
from h2o_gate_plugin.report.plain_text import encodable, printable, without_commands

Detail = Literal["verdict", "short", "whole"]
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
TABLE_WIDTH = 88
SILENT = ("OFF", "UNPROVEN")
"""Statuses of gates that say nothing about the case."""


@dataclass(frozen=True)
class Screen:
    """``detail``: the verdict alone, what to know, or every gate. ``width`` None: nothing is folded, for a file or a pipe.

    ``github``: what engines printed must not be read as a command of the log's reader.
    """

    detail: Detail = "short"
    width: int | None = None
    encoding: str = "utf-8"
    github: bool = False

    @property
    def narrow(self) -> bool:
        return self.width is not None and self.width < TABLE_WIDTH


@dataclass(frozen=True)
class Line:
    text: str
    colour: Colour = ""


def terminal_lines(report: Report, cwd: Path, screen: Screen) -> tuple[Line, ...]:
    brief = [_verdict(report), *([] if report.resume is None else [Line(f"go on with: {report.resume}", "bold")])]
    lines = brief if screen.detail == "verdict" else _lines(report, cwd, screen)
    return tuple(folded for line in lines for folded in _fold(line, screen))


def _lines(report: Report, cwd: Path, screen: Screen) -> list[Line]:
    failed = report.overall_pass is False
    if screen.detail == "whole":
        lines = [] if screen.narrow else [Line(f"{'case / gate':<28}{'status':<13}{'value':>12}{'limit':>14}{'margin':>12}  unit", "bold")]
        lines += [line for case in report.cases for line in (_case_line(case), *_gate_lines(case, screen))]
        lines += [Line(f"note: {note} [{_named(cases, len(report.cases))}]", "yellow") for note, cases in shared_notes(report)]
    else:
        lines = [_case_line(case) for case in report.cases]
        lines += [line for status in SILENT for line in _silent_gates(report, status)]
    lines += [Line(line, "red") for case in report.cases for line in failure_lines(case, cwd)]
    lines += _failed_processes(report, cwd)
    lines += [_verdict(report), _where(report, cwd)]
    if failed or report.kept_in != report.out_dir:
        lines.append(Line(f"artifacts: {short_path(report.kept_in, cwd)}"))
    if report.resume is not None:
        return [*lines, Line(f"go on with: {report.resume}", "bold")]
    command = next_command(report, cwd)
    return [*lines, Line(f"next: {command}", "bold")] if command is not None else lines


def _where(report: Report, cwd: Path) -> Line:
    others = [MARKDOWN_FILE, SUMMARY_FILE, *([METRICS_FILE] if any(case.rows for case in report.cases) else [])]
    return Line(f"report: {short_path(report.out_dir / PAGE_FILE, cwd)} (and {', '.join(others)})")


def _verdict(report: Report) -> Line:
    why = f" ({report.incomplete})" if report.overall_pass is not True and report.incomplete else ""
    colour: Colour = {True: "green", False: "red", None: "yellow"}[report.overall_pass]  # type: ignore[assignment]
    return Line(f"overall_pass: {verdict_word(report.overall_pass)}{why}", colour)


def _case_line(case: CaseReport) -> Line:
    status = case_status(case.overall_pass)
    judged = [gate for gate in case.gates if gate.status not in SILENT]
    failed = [gate.name for gate in judged if gate.failed]
    rows = "1 row" if len(case.rows) == 1 else f"{len(case.rows)} rows"
    if failed:
        told = f"{len(failed)} of {_gates(len(judged))} failed: {', '.join(failed)}"
    else:
        holding = [gate for gate in judged if gate.status == "PASS"]
        told = f"{_gates(len(holding))} hold{'s' if len(holding) == 1 else ''}{_tightest(holding)}"
        through = [gate.name for gate in judged if gate.status != "PASS"]
        told += f"; inconclusive and let through: {', '.join(through)}" if through else ""
    return Line(f"{case.id:<28}{status:<9}{case.runtime_mode}, {rows}; {told}", COLOUR_OF[status])


def _gates(count: int) -> str:
    return "1 gate" if count == 1 else f"{count} gates"


def _tightest(gates: Iterable[GateResult]) -> str:
    """The gate with the least margin for its limit; gates that allow nothing at all (limit 0) have none to compare."""
    margins = [(margin, gate) for gate in gates if (margin := relative_margin(gate)) is not None]
    if not margins:
        return ""
    margin, gate = min(margins, key=lambda pair: pair[0])
    shown = gate_line(gate)
    return f", tightest {gate.name} {shown.value} {shown.limit} {shown.unit} ({margin:.0%} to spare)"


def _gate_lines(case: CaseReport, screen: Screen) -> list[Line]:
    lines = []
    for gate in case.gates:
        shown = gate_line(gate)
        colour: Colour = "" if shown.status == "PASS" else COLOUR_OF[shown.status]
        if screen.narrow:
            margin = "" if shown.margin == "-" else f", {shown.margin}"
            text = f"  {shown.status} {shown.gate} {shown.value} {shown.limit} {shown.unit}{margin}"
        else:
            text = f"  {shown.gate:<26}{shown.status:<13}{shown.value:>12}{shown.limit:>14}{shown.margin:>12}  {shown.unit}"
        lines.append(Line(text, colour))
    return lines


def _silent_gates(report: Report, status: str) -> list[Line]:
    """One line that names the gates that were off, or unproven, and in how many cases where not in all."""
    found: dict[GateName, int] = {}
    for case in report.cases:
        for gate in case.gates:
            if gate.status == status:
                found[gate.name] = found.get(gate.name, 0) + 1
    names = [name if count == len(report.cases) else f"{name} ({count} of {len(report.cases)} cases)" for name, count in found.items()]
    why = " (--require-evidence makes it fail)" if status == "UNPROVEN" else ""
    return [Line(f"{status.lower()}{why}: {', '.join(names)}", "yellow")] if names else []


def _failed_processes(report: Report, cwd: Path) -> list[Line]:
    """argv, seconds and last lines of each failed process; those that ended alike are told once."""
    lines: list[Line] = []
    told: set[tuple[str, ...]] = set()
    for case in report.cases:
        for process in case.failures:
            lines.append(Line(f"failed process of {case.id} after {process.seconds:.1f} s, {process.ending}: {process.line}", "bold"))
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


def _fold(line: Line, screen: Screen) -> list[Line]:
    """On a terminal long lines are folded between words, paths kept whole; control characters are shown and never sent."""
    text = encodable(printable(line.text), screen.encoding)
    if screen.github:
        text = without_commands(text)
    if screen.width is None or len(text) <= screen.width:
        return [replace(line, text=text)]
    indent = " " * (len(text) - len(text.lstrip()) + 4)
    parts = textwrap.wrap(
        text, screen.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return [replace(line, text=part) for part in parts]
