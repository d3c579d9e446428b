"""The verdict and the table for the top of pytest-html's page; every outside string is escaped. `page` is the report of its own."""

from __future__ import annotations

from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.report.measured import measured_table
from h2o_gate_plugin.report.model import (
    CaseReport,
    Report,
    case_status,
    failure_lines,
    gate_line,
    how_judged,
    shared_notes,
    verdict_word,
)
from h2o_gate_plugin.report.plain_text import escape

STYLE = """<style>
.h2o-gate{font-family:system-ui,sans-serif;margin:1em 0;overflow-x:auto}
.h2o-gate,.h2o-gate li,.h2o-gate h3,.h2o-gate th,.h2o-gate td{color:#222;font-size:.85rem}
.h2o-gate table{border-collapse:collapse}
.h2o-gate td:first-child{white-space:nowrap}
.h2o-gate tbody tr:nth-child(even){background:#f7f7f7}
.h2o-gate th,.h2o-gate td{border:1px solid #bbb;padding:.25em .6em;text-align:left;vertical-align:top}
.h2o-gate td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.h2o-gate .PASS{background:#e3f4e1;color:#14400f}
.h2o-gate .FAIL,.h2o-gate .NOT_MEASURED,.h2o-gate .INCONCLUSIVE{background:#fbe0de;color:#6b120b;font-weight:600}
.h2o-gate .OFF,.h2o-gate .UNPROVEN,.h2o-gate .PARTIAL{background:#f3efd9;color:#4d4408}
.h2o-gate .verdict{display:inline-block;padding:.3em .8em;font-size:1.2rem;font-weight:700;border-radius:.3em}
</style>"""


def html(report: Report) -> str:
    word = case_status(report.overall_pass)
    why = f" <span>{escape(report.incomplete)}</span>" if report.incomplete else ""
    rows = "".join(_row(case, gate) for case in report.cases for gate in case.gates)
    notes = [f"{note} ({', '.join(ids)})" for note, ids in shared_notes(report)]
    return (
        f"{STYLE}<section class='h2o-gate' aria-label='h2o-gate'>"
        f"<p><span class='verdict {word}'>overall_pass: {verdict_word(report.overall_pass)}</span>{why}</p>"
        f"<p>pack <b>{escape(report.pack)}</b>, engine <b>{escape(str(report.engine.get('name')))}</b>, {escape(report.started_utc)}, "
        f"{report.seconds:.0f} s, artifacts and report.html, the page with pictures, in <code>{escape(str(report.out_dir))}</code></p>"
        f"{_list('Failures', [line for case in report.cases for line in failure_lines(case, report.out_dir)])}"
        "<table><thead><tr><th>case</th><th>gate</th><th>status</th><th>value</th><th>limit</th><th>margin</th><th>unit</th>"
        f"<th>rule and source</th><th>limit from</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{_list('Notes', notes)}{_measured(report)}</section>"
    )


def _row(case: CaseReport, gate: GateResult) -> str:
    shown = gate_line(gate)
    numbers = "".join(f"<td class='n'>{escape(text)}</td>" for text in (shown.value, shown.limit, shown.margin))
    return (
        f"<tr><td>{escape(case.id)}</td><td>{escape(shown.gate)}</td><td class='{gate.status}'>{escape(shown.status)}</td>{numbers}"
        f"<td>{escape(shown.unit)}</td><td>{escape(how_judged(gate))}</td><td>{escape(gate.limit_origin)}</td></tr>"
    )


def _measured(report: Report) -> str:
    headings, lines = measured_table(report)
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    cells = ("".join(f"<td class='n'>{escape(cell)}</td>" for cell in line[1:]) for line in lines)
    rows = "".join(f"<tr><td>{escape(line[0])}</td>{numbers}</tr>" for line, numbers in zip(lines, cells, strict=True))
    return f"<h3>Measured</h3><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
