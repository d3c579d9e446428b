"""summary.md: the seed's `- key: value` lines, then the table, failures, notes and settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from h2o_gate_plugin.report.measured import measured_table
from h2o_gate_plugin.report.model import Report, failure_lines, gate_line, how_judged, quality_lines, shared_notes
from h2o_gate_plugin.report.plain_text import printable

TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
MARKS = re.compile(r"[\\|\[\]`]|!(?=\[)")
"""What starts a link, a picture, code or a column, or takes the meaning from the mark after it."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """A markdown table; the columns named in ``right`` are right aligned."""
    ruler = ["---:" if name in right else "---" for name in header]
    return ["| " + " | ".join(inline(cell) for cell in row) + " |" for row in (header, ruler, *rows)]


def inline(text: str) -> str:
    """On one line, without what markdown would take for a column, a link, a picture, code or a tag, or a terminal for a command."""
    return TAG_START.sub("&lt;", MARKS.sub(r"\\\g<0>", printable(" ".join(text.split()))))


def host_text(value: object) -> str:
    """``3.49, 2.95, 2.28`` for loads, ``numpy 2.4.6, …`` for libraries."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.2f}" if isinstance(item, float) else str(item) for item in value)
    return str(value)


def markdown(report: Report) -> str:
    gates = [gate for case in report.cases for gate in case.gates]
    lines = [f"# h2o-gate: {inline(report.pack)}", ""]
    lines += [f"- pack: {inline(report.pack)}", f"- engine: {inline(str(report.engine.get('name')))}", f"- started: {report.started_utc}"]
    lines += [f"- seconds: {report.seconds:.0f}", f"- cases: {len(report.cases)}"]
    if report.incomplete:
        lines.append(f"- incomplete: {inline(report.incomplete)}")
    if report.resume:
        lines += ["- go on with:", "", f"      {printable(report.resume)}", ""]
    lines += ["", "## Quality Gate", "", *quality_lines(gates, report.overall_pass), "", "## Gates", ""]
    rows = []
    for case in report.cases:
        for gate in case.gates:
            shown = gate_line(gate)
            rows.append(
                (case.id, shown.gate, shown.status, shown.value, shown.limit, shown.margin, shown.unit, how_judged(gate), gate.limit_origin)
            )
    header = ("case", "gate", "status", "value", "limit", "margin", "unit", "rule and source", "limit from")
    lines += table(header, rows, right=("value", "limit", "margin"))
    failures = [line for case in report.cases for line in failure_lines(case, report.out_dir)]
    if failures:
        lines += ["", "## Failures", "", *(f"- {inline(line)}" for line in failures)]
    broken = [(case.id, process) for case in report.cases for process in case.failures]
    if broken:
        lines += ["", "## Processes that failed", ""]
    for case_id, process in broken:
        lines += [
            f"- {inline(case_id)}, after {process.seconds:.1f} s, {process.ending}: {inline(process.line)}",
            "",
            f"      {printable(shlex.join(process.argv))}",
        ]
        lines += [*(f"      | {printable(line)}" for line in process.tail), ""]
    notes = shared_notes(report)
    if notes:
        lines += ["", "## Notes", "", *(f"- {inline(note)} ({inline(', '.join(ids))})" for note, ids in notes)]
    lines += ["", "## Options", "", *table(("option", "value", "from"), report.settings)]
    headings, measured = measured_table(report)
    lines += ["", "## Measured", "", *table(headings, measured, right=headings[1:])]
    lines += ["", "## Host", "", *(f"- {inline(key)}: {inline(host_text(value))}" for key, value in report.host.items()), ""]
    return "\n".join(lines)
