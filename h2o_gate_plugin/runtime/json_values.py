"""Typed values out of a JSON object. ``place`` is what stands before the key in an error line, as ``folder/config.json: ``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from h2o_gate_plugin.errors import ConfigError

LARGEST_COUNT = 2**31 - 1


def count(raw: Mapping[str, Any], key: str, place: str, default: int | None = None) -> int:
    """An integer from 1 to 2^31 - 1; ``default`` stands for an absent or null key. Raises ConfigError."""
    value = raw.get(key)
    value = default if value is None and default is not None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_COUNT:
        most = f" and <= {LARGEST_COUNT}" if isinstance(value, int) and value > LARGEST_COUNT else ""
        raise ConfigError(f"{place}{key}: expected an integer >= 1{most}, got {value!r:.80}")
    return value


def positive(raw: Mapping[str, Any], key: str, place: str) -> float:
    """A finite number > 0. Raises ConfigError."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"{place}{key}: expected a number > 0, got {value!r:.80}")
    return float(value)


def flag(raw: Mapping[str, Any], key: str, place: str) -> bool:
    """true or false; an absent key is false. Raises ConfigError."""
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{place}{key}: expected true or false, got {value!r}")
    return value
