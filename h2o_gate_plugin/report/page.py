"""report.html: one page that stands alone. Verdict first, then the matrix, failures, pictures, and what was run.

No script, no font, no address: everything is in the file. Every outside string goes through `escape`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from h2o_gate_plugin.report.charts import DataTable, NoPicture, Picture, XyChart
from h2o_gate_plugin.report.markdown import host_text
from h2o_gate_plugin.report.matrix import SYMBOLS, Cell, GateRow, failed_gates, matrix, verdict_sentence
from h2o_gate_plugin.report.measured import measured_table
from h2o_gate_plugin.report.model import (
    Artifact,
    CaseReport,
    FailedProcess,
    Report,
    case_status,
    shared_notes,
    short_path,
    verdict_word,
)
from h2o_gate_plugin.report.next_steps import failures_of, judge_again
from h2o_gate_plugin.report.pictures import PictureGroup, case_pictures, offline_pictures
from h2o_gate_plugin.report.plain_text import escape
from h2o_gate_plugin.report.svg import svg, swatch

STYLE = Path(__file__).with_name("page.css")
SECTIONS = (
    ("gates", "Gates"),
    ("failures", "Failures"),
    ("pictures", "Pictures"),
    ("measured", "Measured"),
    ("run", "Run"),
)


def page(report: Report, cwd: Path) -> str:
    """``cwd``: where the commands on the page are to be typed. Links are relative to the report's folder."""
    title = f"h2o-gate: {report.pack} on {short_path(Path(str(report.engine.get('name'))), cwd)}"
    word = case_status(report.overall_pass)
    failures = _failures(report, cwd)
    shown = [(key, name) for key, name in SECTIONS if key != "failures" or failures]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in shown)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{SYMBOLS[word]} {escape(title)}</title>'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body>"
        '<a class="skip" href="#main">Skip to the verdict</a>'
        f'<header><h1>{escape(title)}</h1><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f'<main id="main" tabindex="-1">{_verdict(report, word, cwd)}{_gates(report)}{failures}{_pictures(report)}'
        f"{_measured(report)}{_run(report, cwd)}</main></body></html>\n"
    )


def _verdict(report: Report, word: str, cwd: Path) -> str:
    shown = "NOT JUDGED" if word == "PARTIAL" else word
    why = f"<p>{escape(report.incomplete)}</p>" if report.incomplete else ""
    resume = f"<p>It goes on where it stopped, in the same folder:</p>{_command(report.resume)}" if report.resume else ""
    facts = (
        ("pack", report.pack),
        ("engine", short_path(Path(str(report.engine.get("name"))), cwd)),
        ("started", report.started_utc),
        ("took", f"{report.seconds:.0f} s"),
        *((("judged from", short_path(report.kept_in, cwd)),) if report.kept_in != report.out_dir else ()),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    failed = failed_gates(report)
    told = f"<p>Failed: {escape('; '.join(failed))}.</p>" if failed else ""
    return (
        f'<section class="verdict {word}" aria-label="Verdict"><p class="word"><span aria-hidden="true">{SYMBOLS[word]}</span> {shown}</p>'
        f"<p><code>overall_pass: {verdict_word(report.overall_pass)}</code></p><p>{escape(verdict_sentence(report))}</p>{told}{why}{resume}"
        f"<dl>{listed}</dl></section>"
    )


def _gates(report: Report) -> str:
    cases = "".join(f'<th scope="col">{_case_heading(case)}</th>' for case in report.cases)
    body = "".join(_gate_rows(row, report.cases) for row in matrix(report))
    legend = ", ".join(f"{symbol} {name.replace('_', ' ').lower()}" for name, symbol in SYMBOLS.items() if name != "PARTIAL")
    head = f"<caption>Each gate of each case</caption><thead><tr><th scope='col'>gate</th>{cases}</tr></thead>"
    table = f"<table class='matrix'>{head}{body}</table>"
    about = f"<p>Status, value, limit, and margin: how far inside the limit the value is. {legend}.</p>"
    return _section("gates", "Gates", about + _scrolling(table, "Gates by cases"))


def _case_heading(case: CaseReport) -> str:
    word = case_status(case.overall_pass)
    rows = "1 row" if len(case.rows) == 1 else f"{len(case.rows)} rows"
    return f"{escape(case.id)}<span class='sub'>{escape(case.runtime_mode)}, {rows}</span>{_status(word, word)}"


def _gate_rows(row: GateRow, cases: Sequence[CaseReport]) -> str:
    cells = "".join(_cell(cell) for cell in row.cells)
    told: dict[str, list[str]] = {}
    for case, cell in zip(cases, row.cells, strict=True):
        if cell is not None:
            told.setdefault(_judged(cell), []).append(case.id)
    listed = "".join(f"<div><dt>{escape(', '.join(ids))}</dt><dd>{escape(text)}</dd></div>" for text, ids in told.items())
    return (
        f"<tbody><tr><th scope='row'>{_breakable(row.gate)}<span class='sub about'>{escape(row.about)}</span></th>{cells}</tr>"
        f"<tr class='how'><td colspan='{len(cases) + 1}'><details><summary>How {escape(row.gate)} was judged</summary>"
        f"<p>{escape(row.about)}</p><dl>{listed}</dl></details></td></tr></tbody>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td class='off'>not judged</td>"
    unit = f" <small>{escape(cell.unit)}</small>" if cell.value != "-" else ""
    margin = f"<span class='sub'>margin {escape(cell.margin)}</span>" if cell.margin != "-" else ""
    value = f"<span class='value'>{escape(cell.value)}{unit}</span>" if cell.value != "-" else "<span class='value'>no value</span>"
    sure = f"<span class='sub sure'>{escape(cell.confidence)}</span>" if cell.confidence else ""
    look = "bad" if cell.failed else "good" if cell.status == "PASS" else "off" if cell.status == "OFF" else "open"
    return (
        f"<td class='{look}' title='{escape(cell.how)}'>{_status(cell.status, cell.word)} {value}"
        f"<span class='sub'>limit {escape(cell.limit)}</span> {margin}{sure}</td>"
    )


def _status(status: str, word: str) -> str:
    return f"<span class='status {status}'><span aria-hidden='true'>{SYMBOLS[status]}</span> {escape(word)}</span>"


def _breakable(name: str) -> str:
    """A long name may break after each underscore."""
    return escape(name).replace("_", "_<wbr>")


def _judged(cell: Cell) -> str:
    """Rule, source, origin of the limit, the first deciding rows, and why."""
    told = [cell.how, f"limit from {cell.limit_origin}" if cell.limit_origin else "", *cell.rows[:3]]
    more = f"and {len(cell.rows) - 3} rows more" if len(cell.rows) > 3 else ""
    return "; ".join(text for text in (*told, more, cell.reason) if text)


def _failures(report: Report, cwd: Path) -> str:
    items = []
    for case in report.cases:
        for failure in failures_of(report, case, cwd):
            commands = "".join(_command(command) for command in failure.commands)
            items.append(f"<li>{_status(failure.status, failure.status.replace('_', ' '))} {escape(failure.line)}{commands}</li>")
    processes = "".join(_process(case.id, process) for case in report.cases for process in case.failures)
    if not items and not processes:
        return ""
    again = f"<p>Judge the same artifacts again, without measuring:</p>{_command(judge_again(report, cwd))}"
    listed = f"<ul class='failures'>{''.join(items)}</ul>"
    return _section("failures", "Failures", f"{listed}{processes}{again}")


def _process(case_id: str, process: FailedProcess) -> str:
    tail = "\n".join(map(escape, process.tail)) or "(no output)"
    after = f"after {process.seconds:.1f} s, {escape(process.ending)}"
    return (
        f"<details><summary>Process of {escape(case_id)} failed {after}: {escape(process.line)}</summary>"
        f"{_command(shlex.join(process.argv))}<p>Its last lines:</p><pre tabindex='0'>{tail}</pre></details>"
    )


def _command(text: str) -> str:
    return f"<pre class='command' tabindex='0'><code>{escape(text)}</code></pre>"


def _pictures(report: Report) -> str:
    opened = next((index for index, case in enumerate(report.cases, 1) if case.overall_pass is False), 1)
    parts = [_case_pictures(case, f"case-{index}", report.out_dir, index == opened) for index, case in enumerate(report.cases, 1)]
    group = PictureGroup("", offline_pictures(report.offline))
    parts.append(f"<section id='offline'><h3>Offline evaluator, for all cases</h3>{_group(group, 'offline', report.out_dir)}</section>")
    return _section("pictures", "Pictures", "".join(parts))


def _case_pictures(case: CaseReport, key: str, out_dir: Path, shown: bool) -> str:
    """``shown``: whether its pictures are open when the page is; the others open by a click."""
    groups = "".join(
        f"<h4>{escape(group.name)}</h4>{_group(group, f'{key}-{index}', out_dir)}" for index, group in enumerate(case_pictures(case), 1)
    )
    word = case_status(case.overall_pass)
    return (
        f"<details class='case' id='{key}'{' open' if shown else ''}><summary><h3>{escape(case.id)} {_status(word, word)}</h3></summary>"
        f"{_links(case.artifacts, out_dir)}{groups}</details>"
    )


def _group(group: PictureGroup, key: str, out_dir: Path) -> str:
    """The pictures, then which ones are not there, told once for each reason."""
    drawn = "".join(_figure(picture, f"{key}-{index}") for index, picture in enumerate(group.pictures, 1))
    gaps: dict[str, list[str]] = {}
    for picture in group.pictures:
        if isinstance(picture, NoPicture):
            gaps.setdefault(picture.why, []).append(picture.title)
    missing = _list(f"{', '.join(titles)}: {why}" for why, titles in gaps.items())
    missing = f"<div class='missing'><p>Not drawn:</p>{missing}</div>" if missing else ""
    figures = f"<div class='figures'>{drawn}</div>" if drawn else ""
    return f"{_links(group.artifacts, out_dir)}{figures}{missing}"


def _figure(picture: Picture, key: str) -> str:
    if isinstance(picture, NoPicture):
        return ""
    legend = ""
    if isinstance(picture, XyChart):
        items = [f"<li>{swatch(series)} {escape(series.name)}</li>" for series in picture.series]
        items += [f"<li><span class='swatch band'></span> {escape(band.name)}</li>" for band in picture.bands]
        items += [
            f"<li><span class='swatch {'limit' if level.limit else 'level'}'></span> {escape(level.name)}</li>" for level in picture.levels
        ]
        legend = f"<ul class='legend'>{''.join(items)}</ul>"
    return (
        f"<figure><figcaption><b>{escape(picture.title)}</b> {escape(picture.says)}</figcaption>{svg(picture, key)}{legend}"
        f"<details><summary>Figures</summary>{_scrolling(_data_table(picture.table, picture.title), picture.title)}</details></figure>"
    )


def _data_table(table: DataTable, caption: str) -> str:
    head = "".join(f"<th scope='col'>{escape(heading)}</th>" for heading in table.headings)
    rows = "".join(
        f"<tr><th scope='row'>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in table.rows
    )
    return f"<table class='data'><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _measured(report: Report) -> str:
    headings, lines = measured_table(report)
    table = _scrolling(_data_table(DataTable(headings, lines), "Rows that the gates read"), "Rows that the gates read")
    rows = f"<p>± is the standard deviation over repeats.</p>{table}" if lines else "<p>No row was measured.</p>"
    notes = _list(f"{note} ({', '.join(ids)})" for note, ids in shared_notes(report))
    return _section("measured", "Measured", rows + (f"<h3>Notes</h3>{notes}" if notes else ""))


def _run(report: Report, cwd: Path) -> str:
    options = _data_table(DataTable(("option", "value", "from"), report.settings), "Options, and where each value came from")
    host = _data_table(DataTable(("fact", "value"), tuple((key, host_text(value)) for key, value in report.host.items())), "Host")
    kept = f"<p>Artifacts are kept in <code>{escape(short_path(report.kept_in, cwd))}</code>.</p>"
    return _section(
        "run",
        "Run",
        f"{_links(report.artifacts, report.out_dir)}{kept}"
        f"<details><summary>Options</summary>{_scrolling(options, 'Options')}</details>"
        f"<details><summary>Host</summary>{_scrolling(host, 'Host')}</details>",
    )


def _links(artifacts: Sequence[Artifact], out_dir: Path) -> str:
    items = "".join(
        f"<li><a href='{escape(quote(os.path.relpath(artifact.path, out_dir), errors='surrogateescape'))}'>{escape(artifact.name)}</a></li>"
        for artifact in artifacts
    )
    return f"<ul class='links' aria-label='Artifacts'>{items}</ul>" if items else ""


def _section(key: str, name: str, body: str) -> str:
    return f"<section id='{key}'><h2>{name}</h2>{body}</section>"


def _scrolling(body: str, name: str) -> str:
    """Wide content scrolls in here, by keyboard too."""
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(name)}'>{body}</div>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
