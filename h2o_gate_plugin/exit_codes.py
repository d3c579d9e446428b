"""Exit codes of `pytest` on a gate pack and of `h2o-gate`; pytest's own 0 to 5 keep their meaning (docs/ci.md)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """A code never changes its meaning."""

    OK = 0
    GATE_FAILED = 1
    """A gate was measured and failed."""
    INTERRUPTED = 2
    """Of `pytest`."""
    RUN_FAILED = 2
    """Of `h2o-gate bench` and `sweep`, as of the seed's scripts (llm_bench contract, option names): a run among them failed."""
    WRONG_CONFIGURATION = 4
    """Refused in one line: an option, a file, a preset or the command line."""
    NOTHING_MEASURED = 10
    """Not one candidate row to judge, and no process that failed: wrong folder, wrong log."""
    ENGINE_BROKEN = 11
    """Not one candidate row to judge, because processes could not be started, crashed or printed none."""
    NOT_WRITTEN = 12
    """Every gate holds, and the disk did not take the report that says so."""
    STOPPED = 130
    """Of `h2o-gate`: Ctrl-C, as shells tell it, SIGTERM or SIGHUP."""
