"""From a value and a limit to a result; and what a gate says when a value is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.result import Direction, GateName, GateResult, Status


def blank(name: GateName, limit: float | None, unit: str, direction: Direction, aggregation: str, source: str) -> GateResult:
    """Not measured yet; OFF where there is no limit."""
    status: Status = "OFF" if limit is None else "NOT_MEASURED"
    return GateResult(name, status, None, limit, unit, direction, aggregation, source)


def holds(value: float, limit: float, direction: Direction) -> bool:
    return value >= limit if direction == ">=" else value <= limit


def decided(start: GateResult, value: float, rows: tuple[Row, ...] = (), reason: str | None = None) -> GateResult:
    """PASS or FAIL of ``value`` against the limit of ``start``; one without a limit passes on evidence alone."""
    passes = start.limit is None or holds(value, start.limit, start.direction)
    status: Status = "PASS" if passes else "FAIL"
    return replace(start, status=status, value=value, rows=tuple(row.place for row in rows), reason=reason)


def missing(rows: tuple[Row, ...], column: str, failures: tuple[str, ...]) -> str | None:
    """Why ``column`` cannot be judged over all rows; None when every row has it."""
    if (gone := no_rows(rows, failures)) is not None:
        return gone
    without = [row for row in rows if row.mean(column) is None]
    if without:
        return f"{column}: no figure in {len(without)} of {len(rows)} rows, first {without[0].place}"
    return None


def no_rows(rows: tuple[Row, ...], failures: tuple[str, ...]) -> str | None:
    if failures:
        return failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "")
    return None if rows else "no rows of the candidate"


def worst_row(start: GateResult, rows: tuple[Row, ...], column: str) -> GateResult:
    pick: Callable[..., Row] = min if start.direction == ">=" else max
    worst = pick(rows, key=lambda row: row.mean(column) or 0.0)
    return decided(start, worst.mean(column) or 0.0, (worst,))


def lacking(start: GateResult, evidence: CaseEvidence, *columns: str) -> GateResult | None:
    """What evidence columns that are not there in every row make of a gate; None when all are.

    UNPROVEN where the engine's table has no such column at all; NOT_MEASURED where rows that should have a figure have none.
    """
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, status="NOT_MEASURED", reason=gone)
    for column in columns:
        if not any(row.prints(column) for row in evidence.rows):
            return replace(start, status="UNPROVEN", reason=f"the engine prints no {column}")
        without = [row for row in evidence.rows if not row.shows(column)]
        if without:
            reason = f"{column}: no figure in {len(without)} of {len(evidence.rows)} rows, first {without[0].place}"
            return replace(start, status="NOT_MEASURED", reason=reason)
    return None


def not_applicable(start: GateResult, why: str) -> GateResult:
    return replace(start, status="OFF", reason=why)


def once_a_run(rows: tuple[Row, ...], column: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(rows that show ``column``, one row of every run in which none does): some evidence is measured in one process of a run only."""
    showing = tuple(row for row in rows if row.shows(column))
    shown_runs = {row.run_id for row in showing}
    without = {row.run_id: row for row in reversed(rows) if row.run_id not in shown_runs}
    return showing, tuple(without.values())
