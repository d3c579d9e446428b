"""Ctrl-C, SIGTERM and SIGHUP at moments spread over a gate run, twice in a row, to the whole process group as a terminal sends it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from .crash_project import CrashProject, statuses_of

MOMENTS = 12
SEED = 11
AT_ONCE = 2
INTERRUPTIBLE = (
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); import pytest; sys.exit(pytest.main(sys.argv[1:]))",
)
"""In a background job of a shell SIGINT would be ignored."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_an_interrupt_at_any_moment_leaves_nothing_running_and_the_run_goes_on(tmp_path: Path, workers: str) -> None:
    whole = CrashProject.make(tmp_path / "whole")
    started = time.monotonic()
    code, output = whole.run([*whole.argv(program=INTERRUPTIBLE), workers])
    seconds = time.monotonic() - started
    assert code == 0, output
    statuses = statuses_of(whole.summary() or {})
    draw = random.Random(SEED)
    moments = [(number + draw.random()) / MOMENTS * seconds for number in range(MOMENTS)]

    def interrupt_at(number: int) -> bool:
        project = CrashProject.make(tmp_path / f"moment{number}")
        process = project.start([*project.argv(program=INTERRUPTIBLE), workers])
        time.sleep(moments[number])
        begun = (project.path / "out" / "progress.jsonl").exists()
        for _ in range(2):
            if process.poll() is None:
                os.killpg(process.pid, SIGNALS[number % 3])
        output, _ = process.communicate(timeout=120)
        project.assert_nothing_runs_on()
        project.assert_honest_and_readable()
        summary = project.summary()
        if begun:  # else Python or pytest were starting, and nothing was lost
            assert process.returncode in (0, 2), output
            assert summary is not None, output
            assert (summary["resume"] is None) == (process.returncode == 0), output
        project.assert_goes_on(statuses)
        return begun and process.returncode == 2

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(interrupt_at, range(MOMENTS))) > 1


def test_an_interrupt_while_another_run_holds_the_machine_ends_the_waiting(tmp_path: Path) -> None:
    project = CrashProject.make(tmp_path / "waiting")
    folder = project.path / "tmp" / f"h2o-gate-{os.getuid()}"
    folder.mkdir(mode=0o700)
    with FileLock(folder / "timed-run.lock"):
        process = project.start(project.argv(program=INTERRUPTIBLE))
        progress = project.path / "out" / "progress.jsonl"
        while not (progress.exists() and "waiting" in progress.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "go on with: pytest" in output
    assert project.calls() == []


def test_a_folder_that_may_not_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    """root, who may write everywhere, gives up that right (CAP_DAC_OVERRIDE, 1) for all that it starts (PR_CAPBSET_DROP, 24)."""
    project = CrashProject.make(tmp_path / "rights")
    (project.path / "out").mkdir(mode=0o555)
    if os.geteuid() != 0:
        code, output = project.run()
    else:
        give_up = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        code, output = project.run([sys.executable, "-c", give_up, *project.argv()[1:]])
    assert code == 4, output
    assert "Traceback" not in output
    assert "expected a folder that can be written, got Permission denied; choose another by --h2o-out" in output
