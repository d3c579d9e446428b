"""Signals as one interrupt: the first is raised, more of them soon after are not, and what others handle stays theirs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2o_gate_plugin import interrupts
from h2o_gate_plugin.interrupts import ORDERLY, Interrupts


@pytest.fixture
def installed() -> Iterator[Interrupts]:
    """On default actions, whatever the shell that started the tests ignores."""
    before = {number: signal.getsignal(number) for number in ORDERLY}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    made = Interrupts()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_first_signal_is_raised_and_those_that_follow_it_soon_are_not(installed: Interrupts, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert installed.name == number.name


def test_after_a_while_another_signal_is_raised_again(installed: Interrupts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE_S", 0.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nothing_breaks_into_a_block_that_is_held_but_it_is_told(installed: Interrupts) -> None:
    with installed.held():
        signal.raise_signal(signal.SIGTERM)
    assert installed.name == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored_and_everything_is_put_back(installed: Interrupts) -> None:
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    installed.uninstall()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_was_set_meanwhile_is_not_taken_away(installed: Interrupts) -> None:
    def theirs(number: int, frame: object) -> None:
        del number, frame

    signal.signal(signal.SIGTERM, theirs)
    installed.uninstall()
    assert signal.getsignal(signal.SIGTERM) is theirs


IMPORTING = """
import importlib.abc, os, signal, sys
from pathlib import Path

from h2o_gate_plugin.interrupts import Interrupts
from h2o_gate_plugin.session.offline import evaluate_dump

assert "numpy" not in sys.modules


class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._core.arrayprint":
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Interrupting())
Interrupts().install()
try:
    evaluate_dump(Path('none'), 'x')
except KeyboardInterrupt:
    import numpy
    print(numpy.max([1, 2]))
"""


def test_an_import_is_not_broken_off_by_an_interrupt(tmp_path: Path) -> None:
    """Half a numpy stayed behind, and the report broke down on it."""
    done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
