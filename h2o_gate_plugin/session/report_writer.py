"""Gathers what the tests judged, from xdist's workers too, and writes the report once."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.revision import Revision, revision_of
from h2o_gate_plugin.errors import FileError
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.gates.result import Criterion, GateName, GateResult
from h2o_gate_plugin.progress import PROGRESS_FILE, PlainLines, ProgressTail
from h2o_gate_plugin.report.github import annotation_lines, step_summary
from h2o_gate_plugin.report.html import html
from h2o_gate_plugin.report.model import Artifact, Report, short_path, verdict_word
from h2o_gate_plugin.report.outcome import EXIT_CODES, outcome
from h2o_gate_plugin.report.plain_text import printable
from h2o_gate_plugin.report.terminal import Detail, Screen, terminal_lines
from h2o_gate_plugin.session.foot_line import live_line, may_live
from h2o_gate_plugin.session.gate_run import GateRun
from h2o_gate_plugin.session.recording import record_run
from h2o_gate_plugin.session.shipped_tests import TYPED, paths_typed
from h2o_gate_plugin.session.summary import build_report, write_report

INTERRUPTED = {
    pytest.ExitCode.INTERRUPTED: "the run was interrupted",
    pytest.ExitCode.INTERNAL_ERROR: "pytest broke down",
}
BY = {"SIGINT": "Ctrl-C"}
"""Signal → what a reader calls it."""


def screen_of(reporter: pytest.TerminalReporter) -> Screen:
    """-v asks for every gate, -q for the verdict alone; lines are folded for a terminal alone, so that files can be searched."""
    detail: Detail = "whole" if reporter.verbosity > 0 else "verdict" if reporter.verbosity < 0 else "short"
    return Screen(detail, reporter._tw.fullwidth if reporter.isatty else None, getattr(reporter._tw._file, "encoding", None) or "utf-8")


class ReportWriter:
    """Registered in the process that owns the terminal: the only one, or xdist's controller."""

    def __init__(self, run: GateRun) -> None:
        self._run = run
        self._judged: dict[str, dict[GateName, GateResult]] = {}
        self._other_failures = False
        self._report: Report | None = None
        self._tail: ProgressTail | None = None
        self._revision = Revision()
        self._not_recorded: str | None = None
        self._not_written: str | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist: every worker writes where the controller looks."""
        node.workerinput["h2o_out_dir"] = str(self._run.out_dir)
        node.workerinput["h2o_packs"] = list(self._run.packs)
        node.workerinput[TYPED] = paths_typed(self._run.config)
        if self._tail is None:
            self._tail = ProgressTail(self._run.out_dir / PROGRESS_FILE, PlainLines(self._run.write))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Nothing is captured yet: the terminal is taken now, so that the line can go on living while a test runs.

        And what is measured is what stands there now; a commit made meanwhile is another.
        """
        if self._run.packs:
            self._revision = revision_of(self._run.cwd)
        reporter = self._run.config.pluginmanager.get_plugin("terminalreporter")
        if self._run.packs and reporter is not None and may_live(reporter, os.environ):
            self._run.followed = True
            self._tail = ProgressTail(self._run.out_dir / PROGRESS_FILE, live_line(reporter))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logstart(self) -> Generator[None]:
        with self._terminal_is_pytests():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logfinish(self) -> Generator[None]:
        with self._terminal_is_pytests():
            return (yield)

    def _terminal_is_pytests(self) -> AbstractContextManager[None]:
        return nullcontext() if self._tail is None else self._tail.hidden()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None]:
        red = False
        for case_id, fields in getattr(report, "h2o_gates", ()):
            criteria = tuple(Criterion(**criterion) for criterion in fields["criteria"])
            gate = GateResult(**{**fields, "rows": tuple(fields["rows"]), "criteria": criteria})
            self._judged.setdefault(case_id, {})[gate.name] = gate
            red |= gate.failed
        self._other_failures |= report.failed and not red
        with self._terminal_is_pytests():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> Generator[None]:
        """Before pytest-html writes its page, and around it: a disk that does not take that one is told in one line, too."""
        with self._run.interrupts.held():
            if self._tail is not None:
                self._tail.close()
            if self._judged or self._cut_short(exitstatus):
                self._finish(session, exitstatus)
            try:
                return (yield)
            except (OSError, UnicodeError) as err:
                if self._report is None:
                    raise
                self._not_written = self._not_written or f"{self._run.config.option.htmlpath}: expected to be able to write it, got {err}"
            finally:
                if self._not_written is not None and session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = ExitCode.NOT_WRITTEN

    def _cut_short(self, exitstatus: int | pytest.ExitCode) -> bool:
        """Whether there is something to go on with although nothing was judged: a process was started, or waited for its turn."""
        run = self._run
        return bool(run.packs) and exitstatus in INTERRUPTED and (run.out_dir / PROGRESS_FILE).is_file()

    def _finish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
        run = self._run
        interrupted = next((why for code, why in INTERRUPTED.items() if exitstatus == code), None)
        if interrupted is not None and (name := run.interrupts.name) is not None:
            interrupted = f"{interrupted} by {BY.get(name, name)}"
        self._report = build_report(
            run.session,
            run.cases,
            self._judged,
            interrupted,
            f"{run.started:%Y-%m-%dT%H:%M:%SZ}",
            time.monotonic() - run.start_clock_s,
            run.packs,
            run.resume_command,
        )
        if tests_page := getattr(run.config.option, "htmlpath", None):  # pytest-html writes it after this
            artifact = Artifact("tests, by pytest-html", run.cwd / tests_page)
            self._report = replace(self._report, artifacts=(*self._report.artifacts, artifact))
        try:
            write_report(run.session, run.cases, self._report)
        except (OSError, FileError) as err:
            self._not_written = str(err)
        self._not_recorded = record_run(run.session, run.cases, self._report, self._revision, run.cwd, run.earlier_parts)
        self._tell_junit(self._report)
        if self._github:
            self._append_step_summary(self._report)
        if exitstatus == pytest.ExitCode.TESTS_FAILED and not self._other_failures:
            session.exitstatus = EXIT_CODES[outcome(self._report)]

    def _tell_junit(self, report: Report) -> None:
        """Properties of the suite, where --junitxml is asked for; those of the tests come with what they judged."""
        facts = {
            "h2o_overall_pass": verdict_word(report.overall_pass),
            "h2o_outcome": outcome(report),
            "h2o_pack": report.pack,
            "h2o_engine": report.engine["name"],
            "h2o_engine_sha256": report.engine["sha256"] or "",
            "h2o_report": short_path(report.out_dir, self._run.cwd),
        }
        for plugin in self._run.config.pluginmanager.get_plugins():
            if hasattr(plugin, "add_global_property"):
                for name, value in facts.items():
                    plugin.add_global_property(name, value)

    @property
    def _github(self) -> bool:
        choice = self._run.settings.github
        return choice == "on" or (choice == "auto" and os.environ.get("GITHUB_ACTIONS") == "true")

    def _append_step_summary(self, report: Report) -> None:
        path = os.environ.get("GITHUB_STEP_SUMMARY")
        if not path:
            return
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(step_summary(report).encode("utf-8", "backslashreplace").decode("utf-8"))
        except OSError as err:  # the verdict stands without it
            self._run.write(f"GITHUB_STEP_SUMMARY: {path}: expected a file to append to, got {err}; no step summary")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._report is None:
            return
        if self._github:
            for command in annotation_lines(self._report):
                terminalreporter.write_line(command)
        screen = replace(screen_of(terminalreporter), github=self._github)
        if screen.detail != "verdict":
            engine = short_path(Path(self._report.engine["name"]), self._run.cwd)
            terminalreporter.write_sep("=", printable(f"h2o-gate: {self._report.pack} on {engine}"))
        for line in terminal_lines(self._report, self._run.cwd, screen):
            terminalreporter.write_line(line.text, **({line.colour: True} if line.colour else {}))
        if self._not_written is not None:
            terminalreporter.write_line(f"error: no whole report: {self._not_written}", red=True)
        if self._not_recorded is not None:
            terminalreporter.write_line(printable(f"warning: {self._not_recorded}"), yellow=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        if self._run.packs:
            report.title = f"h2o-gate: {', '.join(self._run.packs)}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        if self._report is not None:
            prefix.append(html(self._report).encode("utf-8", "backslashreplace").decode())  # a file name may be no text
