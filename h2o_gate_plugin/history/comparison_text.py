"""A comparison as lines for the terminal, as markdown, and as a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2o_gate_plugin.history.comparison import BudgetDifference, Comparison, Difference, GateChange
from h2o_gate_plugin.history.run import KeptGate, KeptRun
from h2o_gate_plugin.history.trend import shown
from h2o_gate_plugin.report.markdown import inline, table
from h2o_gate_plugin.report.model import verdict_word
from h2o_gate_plugin.report.plain_text import printable

JSON_SCHEMA_VERSION = 1
_HEAD = ("gate", "A", "B", "change", "unit", "value", "status")
_RIGHT = ("A", "B", "change")


def comparison_lines(comparison: Comparison) -> tuple[str, ...]:
    """What the runs do not share first, the verdict on B last."""
    lines = [_run_line("A", comparison.a), _run_line("B", comparison.b)]
    lines += [f"  {_difference(each)}" for each in comparison.differences]
    lines += ["", "budgets that differ:", *(f"  {_budget(each)}" for each in comparison.budgets)] if comparison.budgets else []
    rows = [("" if change.criterion is None else "  ", change, _cells(change, comparison)) for change in comparison.changes]
    labels = [indent + (change.gate if change.criterion is None else change.criterion) for indent, change, _ in rows]
    every = [_HEAD, *((label, *cells) for label, (_, _, cells) in zip(labels, rows, strict=True))]
    widths = [max(len(row[index]) for row in every) for index in range(len(_HEAD))]
    lines += ["", "  " + _line(_HEAD, widths)]
    case = ""
    for row, (_, change, _) in zip(every[1:], rows, strict=True):
        lines += [change.case] if change.case != case else []
        case = change.case
        lines.append("  " + _line(row, widths))
    return tuple(printable(line.rstrip()) for line in (*lines, *_ending(comparison)))


def comparison_markdown(comparison: Comparison) -> str:
    a, b = comparison.a, comparison.b
    lines = [
        f"# h2o-gate compare: {inline(a.id)} and {inline(b.id)}",
        "",
        f"- {inline(_run_line('A', a))}",
        f"- {inline(_run_line('B', b))}",
    ]
    lines += [f"- {inline(_difference(each))}" for each in comparison.differences]
    if comparison.budgets:
        lines += ["", "## Budgets that differ", "", *(f"- {inline(_budget(each))}" for each in comparison.budgets)]
    rows = [(change.case, change.name, *_cells(change, comparison)) for change in comparison.changes]
    lines += ["", "## Gates", "", *table(("case", *_HEAD), rows, right=_RIGHT), *_ending(comparison)]
    return "\n".join(lines) + "\n"


def comparison_object(comparison: Comparison) -> dict[str, Any]:
    return {
        "schema_version": JSON_SCHEMA_VERSION,
        "a": _run_object(comparison.a),
        "b": _run_object(comparison.b),
        "worse": [{"case": change.case, "gate": change.gate} for change in comparison.worse],
        "differences": [{"thing": each.thing, "a": each.a, "b": each.b, "matters": each.matters} for each in comparison.differences],
        "budgets": [
            {
                "case": each.case,
                "gate": each.name,
                "unit": each.unit,
                "a": {"limit": each.a, "origin": each.a_origin},
                "b": {"limit": each.b, "origin": each.b_origin},
            }
            for each in comparison.budgets
        ],
        "gates": [
            {
                "case": each.case,
                "gate": each.gate,
                "criterion": each.criterion,
                "unit": each.unit,
                "a": _gate_object(each.a),
                "b": _gate_object(each.b),
                "change": each.change,
                "value_trend": each.trend,
                "status_trend": each.status_trend,
            }
            for each in comparison.changes
        ],
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
    }


def _run_line(letter: str, run: KeptRun) -> str:
    partial = " (partial)" if run.incomplete is not None else ""
    return f"{letter}: {run.id}  overall_pass {verdict_word(run.overall_pass)}{partial}  commit {run.revision.short}"


def _difference(each: Difference) -> str:
    warning = "; speeds and times of two hosts are not comparable" if each.matters else ""
    return f"{each.thing}: {each.a} → {each.b}{warning}"


def _budget(each: BudgetDifference) -> str:
    sides = ((each.a, each.a_origin), (each.b, each.b_origin))
    a, b = (f"{'off' if limit is None else f'{limit:g} {each.unit}'} ({origin})" for limit, origin in sides)
    return f"{each.case} {each.name}: {a} → {b}"


def _cells(change: GateChange, comparison: Comparison) -> tuple[str, ...]:
    """A gate with criteria shows its status alone: its value is that of whichever criterion is nearest to failing."""
    split = change.criterion is None and any(
        other.criterion is not None and (other.case, other.gate) == (change.case, change.gate) for other in comparison.changes
    )
    values = ("-", "-", "-") if split else (_value(change.a), _value(change.b), shown(change.change, change.unit, sign=True))
    trend = "" if split or change.trend is None else change.trend
    return (*values, "" if split else change.unit, trend, _statuses(change))


def _value(gate: KeptGate | None) -> str:
    return "-" if gate is None else shown(gate.value, gate.unit)


def _statuses(change: GateChange) -> str:
    a, b = ("not judged" if gate is None else gate.status.replace("_", " ") for gate in (change.a, change.b))
    return a if change.status_trend == "same" else f"{a} → {b} ({change.status_trend})"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(width) if name in _RIGHT else cell.ljust(width) for name, cell, width in zip(_HEAD, cells, widths, strict=True)
    )


def _ending(comparison: Comparison) -> tuple[str, ...]:
    lines = [""]
    for letter, cases in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only in {letter}: {', '.join(cases)}"] if cases else []
    worse = ", ".join(_worse(comparison)) or "no gate's status"
    return (*lines, f"worse in B: {worse}")


def _worse(comparison: Comparison) -> list[str]:
    """``lossy_pass (m3/joint_full-1, m3/joint_full-2)``, ``decode_pass (4 cases)``."""
    cases: dict[str, list[str]] = {}
    for change in comparison.worse:
        cases.setdefault(change.gate, []).append(change.case)
    return [f"{gate} ({', '.join(ids) if len(ids) < 3 else f'{len(ids)} cases'})" for gate, ids in cases.items()]


def _run_object(run: KeptRun) -> dict[str, Any]:
    return {
        "run": run.id,
        "started_utc": run.started_utc,
        "folder": str(run.folder),
        "pack": run.pack,
        "overall_pass": run.overall_pass,
        "incomplete": run.incomplete,
        "commit": run.revision.commit,
        "changed": run.revision.changed,
        "host": run.origin.host,
        "engine": run.engine,
        "engine_sha256": run.origin.engine_sha256,
        "config_sha256": run.origin.config_sha256,
    }


def _gate_object(gate: KeptGate | None) -> dict[str, Any] | None:
    if gate is None:
        return None
    return {
        "status": gate.status,
        "value": gate.value,
        "limit": gate.limit,
        "margin": gate.margin,
        "limit_origin": gate.limit_origin,
    }
