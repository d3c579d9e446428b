"""What GitHub Actions shows: the step summary, and annotations as workflow commands.

Commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from h2o_gate_plugin.gates.result import GATE_NAMES, GateResult
from h2o_gate_plugin.report.markdown import inline, table
from h2o_gate_plugin.report.model import Report, failure_line, gate_line, short_path, verdict_word
from h2o_gate_plugin.report.plain_text import printable

SHOWN_ANNOTATIONS = 10
"""GitHub shows no more of one kind a step."""
MOST_CASES = MOST_FAILURES = 200
"""In the step summary: GitHub takes 1 MiB of one step, and nothing of a longer one."""
Level = Literal["error", "warning"]


def step_summary(report: Report) -> str:
    """Verdict, gates by case, failures: markdown. Of very many cases those that failed come first, and what is left out is counted."""
    why = f" ({inline(report.incomplete)})" if report.incomplete else ""
    lines = [f"## h2o-gate {inline(report.pack)}: overall_pass {verdict_word(report.overall_pass)}{why}", ""]
    lines += [*table(("engine", "report"), [(str(report.engine.get("name")), str(report.out_dir))]), ""]
    cases = report.cases if len(report.cases) <= MOST_CASES else sorted(report.cases, key=lambda case: case.overall_pass is True)
    by_case = [{gate.name: gate for gate in case.gates} for case in cases[:MOST_CASES]]
    rows = [(name, *(_shown(gates.get(name)) for gates in by_case)) for name in GATE_NAMES if any(name in gates for gates in by_case)]
    lines += [*table(("gate", *(case.id for case in cases[:MOST_CASES])), rows), *_left_out("cases", len(cases) - MOST_CASES)]
    failures = [
        (gate.name, failure_line(case.id, gate, _logs(report, case.logs))) for case in report.cases for gate in case.gates if gate.failed
    ]
    if failures:
        lines += ["", "### Failures", "", *table(("gate", "what was measured, where"), failures[:MOST_FAILURES])]
        lines += _left_out("red gates", len(failures) - MOST_FAILURES)
    return "\n".join([*lines, "", ""])


def _left_out(things: str, count: int) -> list[str]:
    return ["", f"And {count} more {things}: summary.md in the report's folder has all."] if count > 0 else []


def _shown(gate: GateResult | None) -> str:
    if gate is None:
        return "-"
    line = gate_line(gate)
    word = f"**{line.status}**" if gate.failed else line.status
    return word if gate.value is None or line.status == "OFF" else f"{word} {line.value} ({line.limit} {line.unit})"


def _logs(report: Report, logs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(short_path(Path(log), report.out_dir) for log in logs)


def annotation_lines(report: Report) -> tuple[str, ...]:
    """An error for each red gate, a warning for what was not proven or not judged; those beyond what is shown are counted in the last."""
    errors = [
        workflow_command("error", f"{gate.name} of {case.id}", failure_line(case.id, gate, _logs(report, case.logs)))
        for case in report.cases
        for gate in case.gates
        if gate.failed
    ]
    if len(errors) > SHOWN_ANNOTATIONS:
        more = len(errors) - SHOWN_ANNOTATIONS + 1
        errors = [
            *errors[: SHOWN_ANNOTATIONS - 1],
            workflow_command("error", f"{more} more red gates", "summary.md in the report's folder has them all"),
        ]
    return (*errors, *_warnings(report))


def _warnings(report: Report) -> Iterator[str]:
    unproven = dict.fromkeys(gate.name for case in report.cases for gate in case.gates if gate.status == "UNPROVEN")
    if unproven:
        told = f"{', '.join(unproven)}: the engine prints no evidence; --require-evidence makes them fail"
        yield workflow_command("warning", "unproven gates", told)
    if report.overall_pass is None and report.incomplete:
        yield workflow_command("warning", "overall_pass not judged", report.incomplete)


def workflow_command(level: Level, title: str, message: str) -> str:
    """``::error title=…::message``, in which nothing of title or message can end the line or start another property."""
    return f"::{level} title={_data(title).replace(':', '%3A').replace(',', '%2C')}::{_data(message)}"


def _data(text: str) -> str:
    return printable(text.replace("##[", "# #[").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))
