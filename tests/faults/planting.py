"""How a fault is planted: one attribute of the real engine is replaced, in the process of a test's own launcher only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Plant = Callable[[], None]
"""Replaces what the fault needs; called once, before the engine's ``main``."""


def replace(owner: object, name: str, new: object) -> Any:
    """Put ``new`` in the place of an attribute that is there, and return the old one. Raises AttributeError when it is not:
    an engine that was rewritten must not run whole under the name of a fault."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old
