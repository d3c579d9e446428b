"""Starting, watching and ending a process. Real processes; nothing waits for a clock but the time limit itself."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.descendants import descendants
from h2o_gate_plugin.bench.output import TAIL_LINES
from h2o_gate_plugin.bench.process import TIMEOUT_OPTIONS, Launch, ProcessResult, run_llm_bench

LIMIT_S = 30.0


def run_python(tmp_path: Path, code: str, timeout_s: float = LIMIT_S, env: dict[str, str] | None = None) -> ProcessResult:
    argv = (sys.executable, "-c", code)
    launch = Launch(argv, os.environ if env is None else env, tmp_path, timeout_s, tmp_path / "x.log", tmp_path / "x.txt")
    return run_llm_bench(launch)


def test_a_good_process_has_no_error_and_keeps_its_output(tmp_path: Path) -> None:
    result = run_python(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.exit_code, result.signal, result.error) == (0, None, None)
    assert sorted(result.tail) == ["err", "out"]
    assert result.argv[0] == sys.executable
    assert result.seconds > 0


def test_an_exit_code_is_an_error_with_the_last_line(tmp_path: Path) -> None:
    result = run_python(tmp_path, "print('config.json: no such key'); raise SystemExit(3)")
    assert (result.exit_code, result.error) == (3, "exit code 3: config.json: no such key")


def test_a_signal_is_named(tmp_path: Path) -> None:
    result = run_python(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.exit_code, result.signal, result.error) == (None, "SIGSEGV", "ended by signal SIGSEGV")


@pytest.mark.parametrize("kind", ["missing", "not executable", "no program"])
def test_a_program_that_cannot_start_is_a_result_with_a_reason(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "llm_bench"
    if kind != "missing":
        program.write_text("not a program")
        program.chmod(0o644 if kind == "not executable" else 0o755)
    launch = Launch((str(program),), os.environ, tmp_path, LIMIT_S, tmp_path / "x.log", tmp_path / "x.txt")
    result = run_llm_bench(launch)
    assert result.exit_code is None
    assert result.error is not None
    assert result.error.startswith("could not be started: ")


def test_what_stands_in_the_way_of_starting_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.log").mkdir()
    assert run_python(tmp_path, "pass").error == f"could not be started: Is a directory: {tmp_path / 'x.log'}"


@pytest.mark.parametrize("what", ["bad shebang", "folder", "other system's program", "no folder to run in"])
def test_why_a_program_cannot_start_is_told_with_its_place(tmp_path: Path, what: str) -> None:
    program = tmp_path / "llm_bench"
    if what == "folder":
        program.mkdir()
    else:
        program.write_bytes({"bad shebang": b"#!/no/such/interpreter\n", "other system's program": b"MZ\x90\0"}.get(what, b"#!/bin/sh\n"))
        program.chmod(0o755)
    cwd = tmp_path / "absent" if what.startswith("no folder") else tmp_path
    result = run_llm_bench(Launch((str(program),), os.environ, cwd, LIMIT_S, tmp_path / "x.log", tmp_path / "x.txt"))
    assert (result.ending, result.tail) == ("not started", ())
    why = {
        "bad shebang": f"{program} is there, but not the interpreter or loader that it names; check its first line",
        "folder": f"Permission denied: {program}",
        "other system's program": f"Exec format error: {program}",
        "no folder to run in": f"No such file or directory: {cwd}",
    }
    assert result.error == f"could not be started: {why[what]}"


def test_processes_that_fail_leave_no_open_file_and_no_thread(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/dev/fd")), threading.active_count()

    before = held()
    for number in range(10):
        run_python(tmp_path, "pass" if number % 2 else "raise SystemExit(1)")
        run_llm_bench(Launch(("/absent",), os.environ, tmp_path, LIMIT_S, tmp_path / "x.log", tmp_path / "x.txt"))
    assert held() == before


def test_output_that_is_too_much_in_the_end_is_told_however_fast_it_was_written(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "print('x' * 5000)")
    launch = Launch(argv, os.environ, tmp_path, LIMIT_S, tmp_path / "x.log", tmp_path / "x.txt", output_limit_bytes=4000)
    result = run_llm_bench(launch)
    assert (tmp_path / "x.txt").stat().st_size < 4000 + 100
    told = f"{tmp_path / 'x.txt'}: output: expected at most 4000 bytes, got more, of which the ends are kept; let the engine write less"
    assert result.error == told  # whether it ended by itself or was seen and ended just before


def test_a_trace_without_an_end_is_too_much_as_well(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    launch = Launch(
        (sys.executable, "-c", "file = open('trace.json', 'w')\nwhile True: file.write('[' * 4000)"),
        *(os.environ, tmp_path, LIMIT_S, tmp_path / "x.log", tmp_path / "x.txt"),
        output_limit_bytes=4000,
        trace_path=trace,
    )
    result = run_llm_bench(launch)
    assert (result.error or "").startswith(f"{trace}: output: expected at most 4000 bytes, got more")
    assert trace.stat().st_size < 4000 + 100


def test_only_the_last_lines_are_kept_and_bytes_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    result = run_python(tmp_path, r"import sys; sys.stdout.buffer.write(b'\xff\n' + b''.join(b'%d\n' % i for i in range(50)))")
    assert len(result.tail) == TAIL_LINES
    assert result.tail[-1] == "49"


def test_an_older_log_does_not_survive_into_this_run(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("| old rows |")
    assert run_python(tmp_path, "pass").error is None
    assert not (tmp_path / "x.log").exists()


def test_the_environment_is_exactly_the_one_given(tmp_path: Path) -> None:
    result = run_python(tmp_path, "import os; print(os.environ.get('HOME'), os.environ['ONLY'])", env={"ONLY": "this"})
    assert result.tail == ("None this",)


@dataclass(frozen=True)
class Fifo:
    """Every process that a test starts holds ``path`` open for writing: end of file means that all of them are gone."""

    path: Path
    reader: int

    def wait_for(self, expected: bytes) -> None:
        readable, _, _ = select.select([self.reader], [], [], LIMIT_S)
        assert readable, f"nothing came through the pipe in {LIMIT_S} s, expected {expected!r}"
        assert os.read(self.reader, 1) == expected


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    path = tmp_path / "alive"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield Fifo(path, reader)
    os.close(reader)


# The leader and a child of it; the child writes one byte when it runs and then holds the pipe.
HANGING = "(printf x; exec sleep 600) > alive & wait"


@pytest.mark.parametrize(("before", "ended_by"), [("", "SIGTERM"), ("trap '' TERM; ", "SIGKILL")])
def test_a_hung_process_is_ended_with_its_children_at_the_time_limit(tmp_path: Path, fifo: Fifo, before: str, ended_by: str) -> None:
    argv = ("/bin/sh", "-c", before + HANGING)
    result = run_llm_bench(Launch(argv, os.environ, tmp_path, 1.0, tmp_path / "x.log", tmp_path / "x.txt", grace_s=0.2))
    assert (result.error, result.signal, result.exit_code) == (
        f"timed out after 1 s; where it is only slow, raise {TIMEOUT_OPTIONS}",
        ended_by,
        None,
    )
    fifo.wait_for(b"x")
    fifo.wait_for(b"")


def test_without_a_list_of_processes_the_group_is_known_as_one(tmp_path: Path, fifo: Fifo) -> None:
    alone = "printf x > alive; exec sleep 600"  # without a child, whose remains would stay in the group until init asks for them
    with subprocess.Popen(("/bin/sh", "-c", alone), cwd=tmp_path, start_new_session=True) as process:
        fifo.wait_for(b"x")
        assert [found.pid for found in descendants(process.pid, "", tmp_path)] == [-process.pid]
        os.killpg(process.pid, signal.SIGKILL)
    assert descendants(process.pid, "", tmp_path) == ()


@contextmanager
def interrupted_suite(tmp_path: Path, shell: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that runs ``shell`` through ``run_llm_bench``, to be interrupted; killed when the test leaves it running.

    Its SIGINT is set: in a background job of a shell it would be ignored, and so it may be where these tests run.
    """
    code = (
        "import os, signal, sys; from pathlib import Path; from h2o_gate_plugin.bench.process import Launch, run_llm_bench; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"run_llm_bench(Launch(('/bin/sh', '-c', {shell!r}), os.environ, Path('.'), 600.0, Path('x.log'), Path('x.txt'), 1.0))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stderr=subprocess.PIPE) as suite:
        try:
            yield suite
        finally:
            suite.kill()


def test_an_interrupt_ends_the_process_and_its_children(tmp_path: Path, fifo: Fifo) -> None:
    with interrupted_suite(tmp_path, HANGING) as suite:
        fifo.wait_for(b"x")
        suite.send_signal(signal.SIGINT)
        _, stderr = suite.communicate(timeout=LIMIT_S)
    assert b"KeyboardInterrupt" in stderr
    fifo.wait_for(b"")


STUBBORN = """
import os, signal
alive = os.open("alive", os.O_WRONLY)
signal.signal(signal.SIGTERM, lambda number, frame: os.write(alive, b"t"))
os.write(alive, b"x")
while True:
    signal.pause()
"""


def test_a_second_interrupt_while_the_process_is_being_ended_leaves_nothing_behind(tmp_path: Path, fifo: Fifo) -> None:
    with interrupted_suite(tmp_path, f"exec {shlex.join((sys.executable, '-S', '-c', STUBBORN))}") as suite:
        fifo.wait_for(b"x")
        suite.send_signal(signal.SIGINT)
        fifo.wait_for(b"t")
        suite.send_signal(signal.SIGINT)
        suite.send_signal(signal.SIGTERM)
        _, stderr = suite.communicate(timeout=LIMIT_S)
    assert b"KeyboardInterrupt" in stderr
    fifo.wait_for(b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_this_program_ends_the_process_first(tmp_path: Path, fifo: Fifo, number: signal.Signals) -> None:
    with interrupted_suite(tmp_path, HANGING) as suite:
        fifo.wait_for(b"x")
        suite.send_signal(number)
        suite.communicate(timeout=LIMIT_S)
    assert suite.returncode == -number
    fifo.wait_for(b"")


def test_an_interrupt_while_the_process_is_being_started_leaves_nothing_behind(tmp_path: Path, fifo: Fifo) -> None:
    writer = os.open(fifo.path, os.O_WRONLY)  # so that end of file is seen even when the child never came to open the pipe
    with interrupted_suite(tmp_path, "exec 9>alive; kill -INT $PPID; sleep 600") as suite:
        _, stderr = suite.communicate(timeout=LIMIT_S)
    assert b"KeyboardInterrupt" in stderr
    os.close(writer)
    fifo.wait_for(b"")
