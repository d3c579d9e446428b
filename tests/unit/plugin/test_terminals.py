"""Whole runs on a pseudo-terminal, without one, and without the plugins that may be missing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import GateProject

LOSSY = ("acceptance", "-m", "runtime and lossy")
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def on_terminal(project: GateProject, *args: str, **env: str) -> tuple[int, str]:
    """Exit code, and what a terminal of COLUMNS columns received."""
    ours, theirs = pty.openpty()
    columns = int(env.get("COLUMNS", "100"))
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    words = (*LOSSY, *project.engine_options, "-p", "no:cacheprovider", "-p", "no:anyio", *args)
    plain = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR", "PY_COLORS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=project.path,
        env={**plain, "TERM": "xterm", "COLUMNS": str(columns), **env},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    received = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not part:
            break
        received += part
    os.close(ours)
    return process.wait(), received.decode("utf-8")


def test_on_a_terminal_one_line_lives_and_leaves_no_trace_behind(project: GateProject) -> None:
    project.scenario(default={"hang": True})
    code, text = on_terminal(project, "--case-timeout=1")
    assert code == ExitCode.ENGINE_BROKEN
    assert re.search(r"\r\[1/1\] runtime/joint_full-1 p64 candidate 1/1 \d\d:\d\d elapsed", text)
    assert re.search(r"\r +\r", text), "the line is wiped"
    assert "[1/1] runtime/joint_full-1: measured with failures in" in text
    assert "overall_pass: false" in text


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"CI": "true"}], ids=["dumb terminal", "CI"])
def test_where_a_line_cannot_live_progress_is_plain_lines(project: GateProject, env: dict[str, str]) -> None:
    text = on_terminal(project, **env)[1]
    assert "\r[1/1]" not in text
    assert "[1/1] runtime/joint_full-1: run_0001 prompt 64 candidate 1/1 … 0 s elapsed" in text


@pytest.mark.parametrize(("args", "env"), [(("--color=no",), {}), ((), {"NO_COLOR": "1"})], ids=["--color=no", "NO_COLOR"])
def test_colour_can_be_switched_off(project: GateProject, args: tuple[str, ...], env: dict[str, str]) -> None:
    text = on_terminal(project, *args, **env)[1]
    assert "\x1b[3" not in text
    assert "overall_pass: not judged" in text


def test_a_narrow_terminal_is_not_overrun_but_for_what_has_no_gap(project: GateProject) -> None:
    text = ESCAPES.sub("", on_terminal(project, "-v", COLUMNS="60")[1])
    ours = text[text.index("h2o-gate: runtime on") : text.index("Generated html")]
    assert "  PASS lossy_pass 3.200 >= 3.000 ratio, +0.200\r\n" in ours
    assert all(len(line) <= 60 or len(line.split()) == 1 for line in ours.splitlines()[1:-1])


def test_a_terminal_without_utf_8_gets_characters_that_it_has(project: GateProject) -> None:
    code, text = on_terminal(project, "--min-lossy=3.5", LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", TERM="dumb")
    assert code == 1
    assert text.isascii()
    assert "\\u" not in text
    assert "candidate 1/1 ... 0 s elapsed" in text


def test_q_prints_the_verdict_line_of_a_pass_and_no_more_of_ours(project: GateProject) -> None:
    ours = [line for line in project.run(*LOSSY, "-q").outlines if "runtime" in line or "overall" in line or "report" in line]
    assert [line for line in ours if "html report" not in line] == [
        "overall_pass: not judged (only lossy_pass of runtime/joint_full-1 was judged)"
    ]


def test_a_run_needs_neither_xdist_nor_pytest_html(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if neither was installed: no plugin is loaded by its entry point, ours by name."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    words = (*LOSSY, *project.engine_options, "-p", "h2o_gate_plugin.plugin", "-p", "no:cacheprovider")
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "plugins:" not in done.stdout
    assert "overall_pass: not judged" in done.stdout
