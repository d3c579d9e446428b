"""Runs the faults two at a time and prints the table when all are done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .catalogue import ALONE, CONTROLS, FAULTS, Fault
from .gate_runs import GateRuns
from .table import Row, document, terminal_lines

TABLE_VARIABLE = "H2O_FAULTS_TABLE"
"""Names the file that the table is written to, when every fault was run."""
ROWS = pytest.StashKey[list[Row]]()
WORKERS = 2


@pytest.fixture(scope="session")
def gate_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateRuns]:
    """Everything that the selected tests will ask for is started at once; what is to run alone is started by its test."""
    runs = GateRuns(tmp_path_factory.mktemp("faults"), WORKERS)
    for item in request.session.items:
        fault = getattr(item, "callspec").params.get("fault") if hasattr(item, "callspec") else None  # noqa: B009 not every item has it
        if isinstance(fault, Fault) and not fault.alone:
            runs.start(fault.name, fault.arrange)
            if fault.control not in ALONE:
                runs.start(f"control_{fault.control}", CONTROLS[fault.control])
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> list[Row]:
    return pytestconfig.stash.setdefault(ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(ROWS, [])
    if not found:
        return
    terminalreporter.write_sep("=", "planted faults")
    for line in terminal_lines(found):
        terminalreporter.write_line(line)
    wanted = os.environ.get(TABLE_VARIABLE)
    if wanted and len(found) == len(FAULTS):
        Path(wanted).write_text(document(found), encoding="utf-8")
        terminalreporter.write_line(f"written: {wanted}")
