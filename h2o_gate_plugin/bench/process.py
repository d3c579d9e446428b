"""Start one llm_bench process, watch it, end it: always an answer, never a leftover process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.tether import tether
from h2o_gate_plugin.interrupts import ORDERLY

TAIL_LINES = 20


@dataclass(frozen=True)
class Launch:
    """``env`` is the whole environment. ``log_path`` is where argv tells the engine to write its table (-fp appends, so
    an older file there is removed first); stdout and stderr go to ``stdout_path`` together. ``grace_s``: how long the process
    group may clean up between SIGTERM and SIGKILL.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    timeout_s: float
    log_path: Path
    stdout_path: Path
    grace_s: float = 3.0


@dataclass(frozen=True)
class ProcessResult:
    """``exit_code`` is None when the process did not start or was ended by a signal, whose name is ``signal``.

    ``error`` is a one-line reason, None when the exit code is 0; ``tail`` the last 20 lines of output.
    """

    argv: tuple[str, ...]
    exit_code: int | None
    signal: str | None
    seconds: float
    error: str | None
    tail: tuple[str, ...]
    log_path: Path
    stdout_path: Path


def run_llm_bench(launch: Launch) -> ProcessResult:
    """Run to the end or to the time limit; the process has a group of its own, ended as a whole on timeout or interrupt.

    A process that cannot start, fails, or hangs is a result with ``error``, not an exception.
    """
    launch.log_path.unlink(missing_ok=True)
    started = time.monotonic()
    timed_out = False
    process: subprocess.Popen[bytes] | None = None
    with launch.stdout_path.open("wb") as stdout:
        try:
            with _interrupt_held_back():
                process = subprocess.Popen(
                    launch.argv,
                    env=dict(launch.env),
                    cwd=launch.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=tether(),
                )
            process.wait(launch.timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        except OSError as err:
            reason = f"could not be started: {err.strerror or err}"
            return ProcessResult(launch.argv, None, None, time.monotonic() - started, reason, (), launch.log_path, launch.stdout_path)
        finally:
            if process is not None:
                if process.poll() is None:
                    _end_group(process, launch.grace_s)
                code = process.returncode
    seconds = time.monotonic() - started
    ended_by = _signal_name(-code) if code < 0 else None
    tail = _tail(launch.stdout_path)
    if timed_out:
        error: str | None = f"timed out after {launch.timeout_s:g} s"
    elif ended_by is not None:
        error = f"ended by signal {ended_by}"
    elif code != 0:
        error = f"exit code {code}" + (f": {tail[-1]}" if tail else "")
    else:
        error = None
    return ProcessResult(
        launch.argv, code if ended_by is None else None, ended_by, seconds, error, tail, launch.log_path, launch.stdout_path
    )


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """A signal inside the block is delivered at its end: within Popen it would leave a running process that nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: handler for number in ORDERLY if callable(handler := signal.getsignal(number))}
    for held in handlers:
        signal.signal(held, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
    for number in received[:1]:
        signal.raise_signal(number)


def _end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM, a grace period for the leader, then SIGKILL for whoever of the group is left."""
    os.killpg(process.pid, signal.SIGTERM)  # not reaped yet, so its group exists
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody of the group outlived the leader
    finally:
        process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal without a name


def _tail(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        return tuple(line.rstrip() for line in deque((line for line in lines if line.strip()), maxlen=TAIL_LINES))
