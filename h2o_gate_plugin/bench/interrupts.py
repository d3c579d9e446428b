"""Signals that end or interrupt this program, held back while it alone knows of a running process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


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
