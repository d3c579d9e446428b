"""Whether a dataclass that was filled from a file holds what its annotations say: what the file says is not trusted to be of its type."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
"""What SQLite and numpy hold."""


def whole_number(text: str) -> int | None:
    """Of up to nine ASCII digits; None for any other text, of thousands of digits say, which ``int`` refuses."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def as_declared(instance: _T) -> _T:
    """``instance`` itself. Raises TypeError, naming the field: another type, an integer beyond 64 bits, a float that is not finite."""
    of: Any = type(instance)
    for name, wanted in _hints(of).items():
        value = getattr(instance, name)
        if not _fits(value, wanted):
            shown = repr(value) if not isinstance(value, int) or _SMALLEST <= value <= _LARGEST else "an integer beyond 64 bits"
            raise TypeError(f"{name}: {shown[:200]} where {getattr(wanted, '__name__', wanted)} belongs")
    return instance


@lru_cache(maxsize=64)
def _hints(of: Any) -> Mapping[str, Any]:
    hints = get_type_hints(of)
    return {each.name: hints[each.name] for each in fields(of)}


def _fits(value: Any, wanted: Any) -> bool:
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
    if wanted is type(None):
        return value is None
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and _SMALLEST <= value <= _LARGEST
    if wanted is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    if is_dataclass(wanted):
        return type(value) is wanted and as_declared(value) is value
    return isinstance(value, wanted if isinstance(wanted, type) else Path)
