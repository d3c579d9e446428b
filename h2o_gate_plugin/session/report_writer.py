"""Gathers what the tests judged, from xdist's workers too, and writes the report once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.gates.result import Criterion, GateName, GateResult
from h2o_gate_plugin.progress import PROGRESS_FILE, ProgressTail
from h2o_gate_plugin.report.html import html
from h2o_gate_plugin.report.model import Report, short_path
from h2o_gate_plugin.report.terminal import terminal_lines
from h2o_gate_plugin.session.gate_run import GateRun
from h2o_gate_plugin.session.shipped_tests import TYPED, paths_typed
from h2o_gate_plugin.session.summary import build_report, write_report

INTERRUPTED = {
    pytest.ExitCode.INTERRUPTED: "the run was interrupted",
    pytest.ExitCode.INTERNAL_ERROR: "pytest broke down",
}


class ReportWriter:
    """Registered in the process that owns the terminal: the only one, or xdist's controller."""

    def __init__(self, run: GateRun) -> None:
        self._run = run
        self._judged: dict[str, dict[GateName, GateResult]] = {}
        self._report: Report | None = None
        self._tail: ProgressTail | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist: every worker writes where the controller looks."""
        node.workerinput["h2o_out_dir"] = str(self._run.out_dir)
        node.workerinput["h2o_packs"] = list(self._run.packs)
        node.workerinput[TYPED] = paths_typed(self._run.config)
        if self._tail is None:
            self._tail = ProgressTail(self._run.out_dir / PROGRESS_FILE, self._run.write)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for case_id, fields in getattr(report, "h2o_gates", ()):
            criteria = tuple(Criterion(**criterion) for criterion in fields["criteria"])
            gate = GateResult(**{**fields, "rows": tuple(fields["rows"]), "criteria": criteria})
            self._judged.setdefault(case_id, {})[gate.name] = gate

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int | pytest.ExitCode) -> None:
        if self._tail is not None:
            self._tail.close()
        if not self._judged:
            return
        run = self._run
        interrupted = next((why for code, why in INTERRUPTED.items() if exitstatus == code), None)
        seconds = time.monotonic() - run.start_clock_s
        self._report = build_report(run.session, run.cases, self._judged, interrupted, f"{run.started:%Y-%m-%dT%H:%M:%SZ}", seconds)
        write_report(run.session, run.cases, self._report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._report is None:
            return
        engine = short_path(Path(self._report.engine["name"]), self._run.cwd)
        terminalreporter.write_sep("=", f"h2o-gate: {self._report.pack} on {engine}")
        for line in terminal_lines(self._report, self._run.cwd):
            terminalreporter.write_line(line.text, **({line.colour: True} if line.colour else {}))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        if self._run.packs:
            report.title = f"h2o-gate: {', '.join(self._run.packs)}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        if self._report is not None:
            prefix.append(html(self._report))
