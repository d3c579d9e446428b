"""Start one llm_bench process, watch it, end it: always an answer, never a leftover process, never a full disk."""

from __future__ import annotations

import errno
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.descendants import MARK_VARIABLE, Descendant, descendants, signal_all
from h2o_gate_plugin.bench.engine import Engine, changed
from h2o_gate_plugin.bench.output import OUTPUT_LIMIT_BYTES, excess, shorten, tail
from h2o_gate_plugin.bench.tether import tether
from h2o_gate_plugin.interrupts import interrupts_held_back

TIMEOUT_OPTIONS = "--case-timeout (of h2o-gate bench and sweep: --timeout-s)"

_LONGEST_PAUSE_S = 0.05
_SETTLE_S = 0.5
"""How long children may take to end by themselves after the engine, before they count as left behind."""
_KILL_S = 5.0
"""How long SIGKILL may take: a process that hangs in the kernel outlives it."""


@dataclass(frozen=True)
class Launch:
    """``env`` is the whole environment, but for the mark that descendants are known by. ``log_path`` is where argv tells the engine to
    write its table (-fp appends, so an older file there is removed first), ``trace_path`` where it is asked for a trace; stdout and
    stderr go to ``stdout_path`` together. Each of the three may grow to ``output_limit_bytes``. ``grace_s``: how long the processes may
    clean up between SIGTERM and SIGKILL. ``engine``: it is started only while its program is the one that was chosen; None: not asked.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    timeout_s: float
    log_path: Path
    stdout_path: Path
    grace_s: float = 3.0
    output_limit_bytes: int = OUTPUT_LIMIT_BYTES
    engine: Engine | None = None
    trace_path: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.stdout_path, self.log_path, self.trace_path) if path is not None)


@dataclass(frozen=True)
class ProcessResult:
    """``exit_code`` is None when the process did not start or was ended by a signal, whose name is ``signal``. ``seconds`` that it ran.

    ``error`` is a one-line reason, None when it exited with 0 and nothing else is wrong; ``tail`` the last 20 lines of output.
    """

    argv: tuple[str, ...]
    exit_code: int | None
    signal: str | None
    seconds: float
    error: str | None
    tail: tuple[str, ...]
    log_path: Path
    stdout_path: Path

    @property
    def ending(self) -> str:
        """``exit code 3``, ``SIGSEGV`` or ``not started``."""
        if self.signal is not None:
            return self.signal
        return "not started" if self.exit_code is None else f"exit code {self.exit_code}"


@dataclass(frozen=True)
class _End:
    """``code`` as Popen's, None when the process cannot be ended. ``stopped``: why it was ended; None: it ended by itself.

    ``left``: who ran on after it; ``undead``: who runs on after SIGKILL.
    """

    code: int | None
    seconds: float
    stopped: str | None
    left: tuple[Descendant, ...]
    undead: tuple[Descendant, ...]


def run_llm_bench(launch: Launch) -> ProcessResult:
    """Run to the end, to the time limit or to the output limit; whatever it started is ended with it, on an interrupt too.

    A process that cannot start, fails, hangs, floods its output or leaves others behind is a result with ``error``, not an exception.
    """
    reason = None if launch.engine is None else changed(launch.engine)
    if reason is not None:
        return _not_started(launch, reason)
    try:
        end = _run(launch)
    except OSError as err:
        return _not_started(launch, _why_not_started(launch, err))
    too_much = excess(launch.outputs, launch.output_limit_bytes)
    for path in launch.outputs:
        shorten(path, launch.output_limit_bytes)
    lines = tail(launch.stdout_path)
    by_signal = end.code is not None and end.code < 0
    return ProcessResult(
        launch.argv,
        None if by_signal else end.code,
        _signal_name(-(end.code or 0)) if by_signal else None,
        end.seconds,
        _error(end, too_much, lines),
        lines,
        launch.log_path,
        launch.stdout_path,
    )


def _error(end: _End, too_much: str | None, lines: tuple[str, ...]) -> str | None:
    if end.undead:
        return f"{end.stopped or 'ended'}, but SIGKILL does not end {_listed(end.undead)}; look at the machine before the next run"
    if end.stopped is not None:
        return end.stopped
    if end.code is not None and end.code < 0:
        return f"ended by signal {_signal_name(-end.code)}"
    if end.code != 0:
        return f"exit code {end.code}" + (f": {lines[-1]}" if lines else "")
    if too_much is not None:
        return too_much
    if end.left:
        return f"exit code 0, but {_listed(end.left)} ran on and had to be ended; let the engine end what it starts"
    return None


def _listed(processes: tuple[Descendant, ...]) -> str:
    shown = ", ".join(map(str, processes[:3]))
    return shown if len(processes) <= 3 else f"{shown} and {len(processes) - 3} more"


def _run(launch: Launch) -> _End:
    """Raises OSError when it cannot be started; an interrupt meanwhile is delivered once everything is ended."""
    launch.log_path.unlink(missing_ok=True)
    mark = secrets.token_hex(16)
    with launch.stdout_path.open("wb") as stdout, interrupts_held_back() as interrupted:
        process = subprocess.Popen(
            launch.argv,
            env={**launch.env, MARK_VARIABLE: mark},
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tether(),
        )
        started = time.monotonic()
        try:
            stopped = _watch(process, launch, interrupted)
        finally:
            seconds = time.monotonic() - started
            left, undead = _end_all(process, mark, launch.grace_s)
    return _End(process.returncode, seconds, stopped, left, undead)


def _watch(process: subprocess.Popen[bytes], launch: Launch, interrupted: Callable[[], bool]) -> str | None:
    """Wait for its end; why it is to be ended, where that comes first.

    Looks as often as ``Popen.wait`` with a time limit does, so that the timed run is not disturbed by more than three ``stat`` in 50 ms; an
    output can pass its limit by what the disk takes meanwhile. RLIMIT_FSIZE would be exact, and hit the engine's other files too: KV dumps,
    weights that it maps.
    """
    deadline = time.monotonic() + launch.timeout_s
    pause_s = 0.0005
    while process.poll() is None:
        left_s = deadline - time.monotonic()
        if interrupted():
            return "interrupted"
        if (too_much := excess(launch.outputs, launch.output_limit_bytes)) is not None:
            return too_much
        if left_s <= 0:
            return f"timed out after {launch.timeout_s:g} s; where it is only slow, raise {TIMEOUT_OPTIONS}"
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return None


def _end_all(process: subprocess.Popen[bytes], mark: str, grace_s: float) -> tuple[tuple[Descendant, ...], tuple[Descendant, ...]]:
    """End the process if it still runs, and whoever it started: who was left when it had ended by itself, and who cannot be ended."""

    def running() -> tuple[Descendant, ...]:
        found = descendants(process.pid, mark)
        process.poll()  # after it: what is not found any more has a code
        return found

    def killed() -> bool:  # again and again: who is killed may have started another meanwhile
        signal_all(process.pid, mark, signal.SIGKILL)
        return not running()

    left: tuple[Descendant, ...] = ()
    if process.poll() is None:
        signal_all(process.pid, mark, signal.SIGTERM)
        _until(lambda: process.poll() is not None, grace_s)
    elif _until(lambda: not running(), _SETTLE_S):
        return (), ()
    else:
        left = running()
        signal_all(process.pid, mark, signal.SIGTERM)
        _until(lambda: not running(), grace_s)
    return left, () if not running() or _until(killed, _KILL_S) else running()


def _until(done: Callable[[], bool], limit_s: float) -> bool:
    """Whether it was done within the limit."""
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _not_started(launch: Launch, reason: str) -> ProcessResult:
    return ProcessResult(launch.argv, None, None, 0.0, reason, (), launch.log_path, launch.stdout_path)


def _why_not_started(launch: Launch, err: OSError) -> str:
    program = launch.argv[0]
    if err.errno == errno.ENOENT and err.filename == program and Path(program).is_file():
        return f"could not be started: {program} is there, but not the interpreter or loader that it names; check its first line"
    return f"could not be started: {err.strerror or err}" + (f": {err.filename}" if err.filename else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal without a name
