"""Run a command and tell the most memory that its process held."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_BETWEEN = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    file.write(f"{process.returncode} {usage.ru_maxrss}")
"""
"""A process of 10 MiB between the two: Linux counts what the parent held to the child, from before its exec."""


@dataclass(frozen=True)
class Measured:
    """``exit_code``: minus the number of a signal that ended it. ``output``: stdout and stderr together."""

    exit_code: int
    seconds: float
    peak_mib: float
    output: str


def run_measured(argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Measured:
    """``env`` None: this process's."""
    with tempfile.TemporaryDirectory() as name:
        told, output = Path(name) / "told", Path(name) / "output"
        started = perf_counter()
        with output.open("wb") as file:
            words = [sys.executable, "-S", "-c", _BETWEEN, str(told), *argv]
            subprocess.run(words, cwd=cwd, env=dict(os.environ if env is None else env), stdout=file, stderr=subprocess.STDOUT, check=True)
        seconds = perf_counter() - started
        exit_code, peak_kib = told.read_text(encoding="utf-8").split()
        return Measured(int(exit_code), seconds, int(peak_kib) / 1024, output.read_text(encoding="utf-8", errors="replace"))
