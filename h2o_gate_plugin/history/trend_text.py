"""A metric over runs as text: one table for each series, a sparkline above it; and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from h2o_gate_plugin.files import written_whole
from h2o_gate_plugin.history.trend import Point, Series, shown
from h2o_gate_plugin.report.model import verdict_word

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
BUDGET_MARK = "*"
_HEAD = ("run", "commit", "host", "value", "limit", "margin", "status")
_RIGHT = ("value", "limit", "margin")
CSV_COLUMNS = (
    "case", "metric", "run", "started_utc", "commit", "host", "engine", "engine_sha256", "overall_pass", "incomplete", "value", "limit",
    "margin", "unit", "direction", "status", "limit_origin", "budget_change", "remarks",
)  # fmt: skip


def sparkline(values: Sequence[float | None]) -> str:
    """One bar for each value between the least and the largest of them, a dot where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return GAP * len(values)
    low, span = min(known), max(known) - min(known)
    top = len(BARS) - 1
    return "".join(GAP if value is None else BARS[round((value - low) / span * top) if span else top // 2] for value in values)


def trend_lines(series: Series) -> tuple[str, ...]:
    """Title with sparkline and range, the table, and below it every budget change with the run in which it appeared."""
    unit = f" ({series.unit})" if series.unit else ""
    values = series.values()
    span = f"  {shown(min(values), series.unit)} to {shown(max(values), series.unit)}" if values else "  not measured"
    lines = [f"{series.title}{unit}  {sparkline([point.value for point in series.points])}{span}"]
    judged = any(point.status for point in series.points)
    head = _HEAD if judged else _HEAD[:4]
    cells = [_cells(point, series)[: len(head)] for point in series.points]
    widths = [max(len(row[index]) for row in (head, *cells)) for index in range(len(head))]
    lines.append("  " + _line(head, widths, ""))
    for point, row in zip(series.points, cells, strict=True):
        told = "; ".join((*((point.change.text,) if point.change else ()), *point.remarks))
        lines.append(f"{BUDGET_MARK if point.change else ' '} {_line(row, widths, told)}")
    return tuple(line.rstrip() for line in lines)


def _cells(point: Point, series: Series) -> tuple[str, ...]:
    run = point.run
    if point.status == "OFF":
        limit = "off"
    elif point.limit is not None:
        limit = f"{series.direction or ''} {shown(point.limit, series.unit)}".strip()
    else:
        limit = "> 0" if point.status in ("PASS", "FAIL") else "-"
    return (
        run.id,
        run.revision.short,
        run.origin.host or "-",
        shown(point.value, series.unit),
        limit,
        shown(point.margin, series.unit, sign=True),
        point.status.replace("_", " "),
    )


def _line(cells: Sequence[str], widths: Sequence[int], told: str) -> str:
    placed = [cell.rjust(width) if name in _RIGHT else cell.ljust(width) for name, cell, width in zip(_HEAD, cells, widths, strict=False)]
    return "  ".join([*placed, told])


def write_trend_csv(path: Path, series: Iterable[Series]) -> None:
    """One line for each point; what is not known is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for each in series:
            writer.writerows(_record(each, point) for point in each.points)


def _record(series: Series, point: Point) -> tuple[object, ...]:
    run = point.run
    head = (series.case, series.name, run.id, run.started_utc, run.revision.commit, run.origin.host, run.engine, run.origin.engine_sha256)
    figures = (point.value, point.limit, point.margin, series.unit, series.direction, point.status, point.origin)
    change = point.change.text if point.change else None
    return (*head, verdict_word(run.overall_pass), run.incomplete, *figures, change, "; ".join(point.remarks))
