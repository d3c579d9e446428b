"""The report as data; every renderer reads this and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.bench.trace import InstanceTrace
from h2o_gate_plugin.gates.result import GATE_NAMES, GateName, GateResult
from h2o_gate_plugin.report.plain_text import printable

SCHEMA_VERSION = 1
PAGE_FILE, MARKDOWN_FILE, SUMMARY_FILE, METRICS_FILE = "report.html", "summary.md", "summary.json", "h2o_metrics.csv"
"""Of a run's folder; METRICS_FILE only where a row was measured."""


@dataclass(frozen=True)
class SpeedPair:
    pair: int
    baseline_tps: float
    candidate_tps: float


@dataclass(frozen=True)
class SpeedPairs:
    """Decode speeds of one run's pairs.

    ``drop``: what was judged; the test is sure, each on its own side, that the true drop is >= ``least`` and <= ``most``: None where
    there was no test, or too few pairs for it. ``limit`` None: the gate is off.
    """

    pairs: tuple[SpeedPair, ...]
    drop: float
    least: float | None
    most: float | None
    limit: float | None


@dataclass(frozen=True)
class Artifact:
    name: str
    path: Path


@dataclass(frozen=True)
class RunReport:
    """One run of a case: its first candidate's files and trace, and the speeds of all its pairs.

    ``trace`` None: ``trace_gap`` says why. ``artifacts``: files that exist.
    """

    run_id: str
    prompt_tokens: int | None
    gen_tokens: int | None
    speeds: SpeedPairs | None
    trace: InstanceTrace | None
    trace_gap: str | None
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class FailedProcess:
    """``line``: role, run and what went wrong; ``ending``: exit code or signal; ``tail``: last lines of output; ``log``: where all are."""

    line: str
    ending: str
    argv: tuple[str, ...]
    seconds: float
    tail: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class CaseReport:
    """``gates``: those that were judged. ``logs``: of the candidate processes.

    ``measured_runs``: by config and lengths. ``artifacts``: the case's files that exist.
    """

    id: str
    case: str
    run: int
    pack: str
    runtime_mode: str
    overall_pass: bool | None
    gates: tuple[GateResult, ...]
    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]
    failures: tuple[FailedProcess, ...]
    folder: Path | None
    logs: tuple[str, ...]
    measured_runs: tuple[RunReport, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Report:
    """``overall_pass`` None: not every gate of every case of the pack was judged; ``incomplete`` says why.

    ``settings``: (flag, value, origin). ``out_dir``: where the report lies; ``kept_in``: where what was measured lies.
    ``offline``: the evaluator's result objects ``upper_bound`` and ``online_sim``, or None.
    ``resume``: the command that goes on with a run that was cut short; None for a finished one.
    """

    overall_pass: bool | None
    incomplete: str | None
    pack: str
    engine: Mapping[str, Any]
    host: Mapping[str, Any]
    cases: tuple[CaseReport, ...]
    offline: Mapping[str, Any]
    settings: tuple[tuple[str, str, str], ...]
    out_dir: Path
    kept_in: Path
    started_utc: str
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    resume: str | None = None


@dataclass(frozen=True)
class GateLine:
    """One line of the table, as text: figures with the digits of their unit, ``-`` where there is none."""

    gate: str
    status: str
    value: str
    limit: str
    margin: str
    unit: str


DIGITS = {"ratio": 3, "share": 3, "nats": 3}


def figure(value: float | None, unit: str, sign: bool = False) -> str:
    """``3.204``, ``2.1e-08`` (what three digits would make 0), ``12,345`` (us), ``1.5`` (blocks), ``-`` for None."""
    if value is None:
        return "-"
    plus = "+" if sign else ""
    if unit in DIGITS:
        rounds_to_0 = value != 0 and abs(value) < 0.5 * 10 ** -DIGITS[unit]
        return f"{value:{plus}.1e}" if rounds_to_0 else f"{value:{plus}.{DIGITS[unit]}f}"
    if unit == "us":
        return f"{value:{plus},.0f}" if abs(value) >= 100 else f"{value:{plus},.2f}"
    return f"{value:{plus}g}"


def gate_line(gate: GateResult) -> GateLine:
    if gate.status == "OFF":
        limit = "off"
    elif gate.limit is not None:
        limit = f"{gate.direction} {figure(gate.limit, gate.unit)}"
    else:  # evidence of decompression is asked for without a budget too; a gate of several criteria has no limit until one decides
        limit = "> 0" if gate.name == "runtime_decomp_pass" else "-"
    value, margin = figure(gate.value, gate.unit), figure(gate.margin, gate.unit, sign=True)
    if gate.value is not None and gate.status == "FAIL" and value == figure(gate.limit, gate.unit):
        value, margin = repr(gate.value), f"{gate.margin:+.2g}"  # a miss that rounds to the limit must not read as a hit
    return GateLine(gate.name, gate.status.replace("_", " "), value, limit, margin, gate.unit)


def verdict_word(overall: bool | None) -> str:
    return {True: "true", False: "false", None: "not judged"}[overall]


def case_status(overall: bool | None) -> str:
    return {True: "PASS", False: "FAIL", None: "PARTIAL"}[overall]


def gate_word(gates: Iterable[GateResult]) -> str:
    """One word for a gate over all cases: true, false, off, unproven, or not judged."""
    gates = tuple(gates)
    if any(gate.failed for gate in gates):
        return "false"
    if not gates:
        return "not judged"
    if all(gate.status in ("OFF", "UNPROVEN") for gate in gates):
        return "unproven" if any(gate.status == "UNPROVEN" for gate in gates) else "off"
    return "true"


def quality_lines(results: Sequence[GateResult], overall: bool | None) -> tuple[str, ...]:
    """The seed's `- key: value` lines: quality_status, one line per gate, overall_pass."""
    by_name: dict[GateName, list[GateResult]] = {name: [gate for gate in results if gate.name == name] for name in GATE_NAMES}
    return (
        f"- quality_status: {case_status(overall)}",
        *(f"- {name}: {gate_word(gates)}" for name, gates in by_name.items()),
        f"- overall_pass: {verdict_word(overall)}",
    )


def shared_notes(report: Report) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(note, ids of the cases it is about), each note once."""
    found: dict[str, list[str]] = {}
    for case in report.cases:
        for note in case.notes:
            found.setdefault(note, []).append(case.id)
    return tuple((note, tuple(ids)) for note, ids in found.items())


def failure_line(case_id: str, gate: GateResult, logs: Sequence[str]) -> str:
    """Gate, case, value, limit and where it came from, deciding row, reason, log: one line."""
    parts = [f"{gate.name}: {case_id}: {measured_against(gate)} ({gate.limit_origin})"]
    log = deciding_log(gate, logs)
    row = gate.rows[0] if gate.rows else ""
    if log and f"({Path(log).name}:" in row:
        row, _, at = row.rpartition(f"({Path(log).name}:")
        log = f"{log}:{at.rstrip(')')}"
    parts += [text for text in (row.strip(), gate.reason) if text]
    if log and log not in (gate.reason or ""):
        parts.append(f"log {log}")
    return printable("; ".join(parts))


def measured_against(gate: GateResult) -> str:
    """``measured 2.930 ratio, limit >= 3.000 ratio, margin -0.070``."""
    shown = gate_line(gate)
    measured = "NOT MEASURED" if gate.value is None else f"measured {shown.value} {gate.unit}"
    margin = "" if gate.margin is None else f", margin {shown.margin}"
    return f"{measured}, limit {shown.limit} {gate.unit}{margin}"


def relative_margin(gate: GateResult) -> float | None:
    """Margin / limit; None without a margin, and where the limit is 0: the only value that holds there is the limit itself."""
    return None if gate.margin is None or not gate.limit else gate.margin / abs(gate.limit)


def deciding_log(gate: GateResult, logs: Sequence[str]) -> str | None:
    """The log that holds the deciding row, else the case's first; the offline gate reads no log."""
    if gate.name == "lossless_online_pass":
        return None
    for log in logs:
        if any(f"({Path(log).name}:" in row for row in gate.rows):
            return log
    return logs[0] if logs else None


def failure_lines(case: CaseReport, base: Path) -> tuple[str, ...]:
    """One line per failed gate, and one for all that have no evidence for the same reason; logs are named relative to ``base``."""
    logs = tuple(short_path(Path(log), base) for log in case.logs)
    unmeasured = Counter(gate.reason for gate in case.gates if gate.status == "NOT_MEASURED")
    lines = [failure_line(case.id, gate, logs) for gate in case.gates if gate.failed and unmeasured[gate.reason] < 2]
    for reason, count in unmeasured.items():
        if count > 1:
            gates = [gate for gate in case.gates if gate.status == "NOT_MEASURED" and gate.reason == reason]
            names = ", ".join(f"{gate.name} (limit {gate_line(gate).limit})" for gate in gates)
            log = deciding_log(gates[0], logs)
            lines.append(f"{names}: {case.id}: NOT MEASURED; {reason}{f'; log {log}' if log else ''}")
    return tuple(lines)


def short_path(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def how_judged(gate: GateResult) -> str:
    """Rule, source, and what a reader should know: the other criteria, how sure it is, why it is off."""
    criteria = [
        f"{criterion.name} {criterion.value:.3g} {criterion.direction} {criterion.limit:g} {criterion.unit}" for criterion in gate.criteria
    ]
    told = [", ".join(criteria)] if len(criteria) > 1 else []
    told += [gate.confidence] if gate.confidence else []
    told += [gate.reason] if gate.reason and gate.status in ("OFF", "UNPROVEN", "PASS") else []
    return "; ".join([gate.aggregation, gate.source, *told])
