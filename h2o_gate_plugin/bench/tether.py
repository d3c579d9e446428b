"""A process that ends with this one, even when SIGKILL ends this one and leaves it no time to end anybody. Linux alone has it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2); a program that is executed keeps it, its own children do not get it."""


def tether() -> Callable[[], None] | None:
    """What the new process does before it becomes the engine; None where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: between fork and exec little may be done

    def tie() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # gone already
            os._exit(1)

    return tie
