"""The terminal under pytest's capturing: who may draw a living line on it, and how."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import pytest

from h2o_gate_plugin.progress import LiveLine


def may_live(reporter: pytest.TerminalReporter, env: Mapping[str, str]) -> bool:
    """On a terminal that can go back in its line, unless it is a CI's or -q asks for silence."""
    able = env.get("TERM") != "dumb" and env.get("CI", "").lower() not in ("1", "true")
    return able and reporter.verbosity >= 0 and bool(reporter.isatty) and sys.stdout.isatty()


def live_line(reporter: pytest.TerminalReporter) -> LiveLine:
    """On a copy of standard output's descriptor: pytest turns the descriptor itself elsewhere while a test runs."""
    file = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding, errors="replace")

    def end_line() -> bool:
        within = reporter._tw.width_of_current_line > 0
        if within:
            reporter._tw._current_line = ""
        return within

    return LiveLine(file, end_line)
