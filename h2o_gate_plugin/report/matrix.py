"""Gates by cases, as data: what the page's matrix shows in each cell, and how its gate was judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.result import GATE_NAMES, GateResult
from h2o_gate_plugin.report.model import Report, gate_line, how_judged

SYMBOLS: Mapping[str, str] = {
    "PASS": "✓",
    "FAIL": "✗",
    "NOT_MEASURED": "?",
    "INCONCLUSIVE": "≈",
    "UNPROVEN": "○",
    "OFF": "–",
    "PARTIAL": "◐",
}
"""Beside the word, so that a status reads without colour."""


@dataclass(frozen=True)
class Cell:
    """``value``, ``limit`` and ``margin`` with the digits of ``unit``; ``status``: as in GateResult, ``word`` as it is shown.

    ``confidence``: its first statement; ``how`` has all. ``word`` says so where a status that fails was let through by an option.
    """

    status: str
    word: str
    value: str
    limit: str
    margin: str
    unit: str
    confidence: str | None
    how: str
    limit_origin: str
    rows: tuple[str, ...]
    reason: str | None
    failed: bool


@dataclass(frozen=True)
class GateRow:
    """``cells``: one per case, in the report's order; None where the gate was not judged."""

    gate: str
    about: str
    cells: tuple[Cell | None, ...]


def matrix(report: Report) -> tuple[GateRow, ...]:
    """A row for each gate that any case judged."""
    judged = [{gate.name: gate for gate in case.gates} for case in report.cases]
    return tuple(
        GateRow(name, GATES[name].about, tuple(None if (gate := gates.get(name)) is None else _cell(gate) for gates in judged))
        for name in GATE_NAMES
        if any(name in gates for gates in judged)
    )


def _cell(gate: GateResult) -> Cell:
    shown = gate_line(gate)
    tolerated = gate.tolerated and gate.status == "INCONCLUSIVE"
    reason = gate.reason if gate.status in ("FAIL", "NOT_MEASURED", "INCONCLUSIVE") else None  # `how` has that of the others
    return Cell(
        gate.status,
        f"{shown.status} (let through)" if tolerated else shown.status,
        shown.value,
        shown.limit,
        shown.margin,
        shown.unit,
        None if gate.confidence is None else gate.confidence.partition("; ")[0],
        how_judged(gate),
        gate.limit_origin,
        gate.rows,
        reason,
        gate.failed,
    )


def failed_gates(report: Report, most: int = 6) -> tuple[str, ...]:
    """``decode_pass (m3/joint_full-1)``, ``lossy_pass (4 of 4 cases)``; what goes beyond ``most`` is counted."""
    named = []
    for name in GATE_NAMES:
        ids = [case.id for case in report.cases if any(gate.failed and gate.name == name for gate in case.gates)]
        if ids:
            named.append(f"{name} ({', '.join(ids) if len(ids) < 3 else f'{len(ids)} of {len(report.cases)} cases'})")
    return tuple(named) if len(named) <= most else (*named[: most - 1], f"{len(named) - most + 1} gates more")


def verdict_sentence(report: Report) -> str:
    """What the verdict counts: gates judged, and how many of them came to which status."""
    counts = Counter(cell.word for row in matrix(report) for cell in row.cells if cell is not None)
    told = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    cases = "1 case" if len(report.cases) == 1 else f"{len(report.cases)} cases"
    return f"{counts.total()} gates of {cases}: {told}."
