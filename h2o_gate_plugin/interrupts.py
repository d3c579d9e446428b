"""Ctrl-C, SIGTERM and SIGHUP as one orderly interrupt: whoever measures ends its engine, keeps what it has and tells how to go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ORDERLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HELD_BACK = (*ORDERLY, signal.SIGQUIT)
PATIENCE_S = 10.0
"""For so long after the first signal more of them change nothing: a second Ctrl-C would break into the ending of the engine."""


class Interrupts:
    """The first signal is raised as KeyboardInterrupt; further ones are not, until ``PATIENCE_S`` later. ``name``: of the first one."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._raised_s: float | None = None
        self._held = False
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Where a signal has its default action: what somebody else handles, or has ignored (nohup), stays as it is."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ORDERLY:
            known = signal.getsignal(number)
            if known in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = known
                signal.signal(number, self._receive)

    def uninstall(self) -> None:
        """As it was before; where another handler was set meanwhile, that one stays."""
        for number, known in self._before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, known)
        self._before.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No signal breaks into the block, however often it is sent; ``name`` tells of it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _receive(self, number: int, frame: object) -> None:
        self.name = self.name or signal.Signals(number).name
        now = time.monotonic()
        if self._held or (self._raised_s is not None and now - self._raised_s < PATIENCE_S):
            return
        self._raised_s = now
        raise KeyboardInterrupt


@contextmanager
def interrupts_held_back() -> Iterator[Callable[[], bool]]:
    """Gives the question whether one came inside the block; the first is delivered at its end, to whoever it was for, be it the system.

    One that is ignored stays so. In another thread than the main one no handler can be set, and none is run.
    """
    received: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    known = {number: signal.getsignal(number) for number in HELD_BACK if in_main_thread}
    handlers = {number: handler for number, handler in known.items() if handler not in (signal.SIG_IGN, None)}
    for number in handlers:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
