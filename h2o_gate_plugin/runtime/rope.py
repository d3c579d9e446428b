"""RoPE's frequencies (Su et al. 2021) and how config.json scales them: plain, linear, or as in Llama 3.1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.json_values import count, positive
from h2o_gate_plugin.runtime.ops import F32


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by ``factor``."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Wavelengths above original / low divided by ``factor``, those below original / high left alone, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True)
class Rope:
    """``scaling`` None: the plain frequencies of ``theta``."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | None = None


def rope_frequencies(rope: Rope, head_dim: int) -> F32:
    """Radians per position, [head_dim / 2], in float32 arithmetic as in transformers' ``modeling_rope_utils``."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain: F32 = np.float32(1.0) / np.power(np.float32(rope.theta), exponents)
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            slowed: F32 = plain / np.float32(factor)
            return slowed
        case Llama3Scaling(factor, low, high, original):
            turns = np.float32(original) * plain / np.float32(2 * math.pi)  # full turns within the original context
            kept = np.clip((turns - np.float32(low)) / np.float32(high - low), np.float32(0.0), np.float32(1.0))
            ramped: F32 = (np.float32(1.0) - kept) * plain / np.float32(factor) + kept * plain
            return ramped


def read_rope(raw: Mapping[str, Any], path: Path) -> Rope:
    """From ``rope_parameters`` (transformers 5), or ``rope_theta`` and ``rope_scaling`` (before).

    Raises ConfigError for another rope type, a key that the type does not read, a missing or wrong number, or two places
    that say different things.
    """
    if raw.get("partial_rotary_factor") not in (None, 1):
        raise ConfigError(_partial(f"{path}: ", raw["partial_rotary_factor"]))
    ropes = [_section(raw, key, path) for key in ("rope_parameters", "rope_scaling") if raw.get(key) not in (None, {})]
    if len(ropes) == 2 and ropes[0] != ropes[1]:
        raise ConfigError(f"{path}: rope_scaling: expected the same as rope_parameters, got {raw['rope_scaling']!r}; remove the wrong one")
    return ropes[0] if ropes else Rope(_theta(raw, f"{path}: "))


def _section(raw: Mapping[str, Any], name: str, path: Path) -> Rope:
    section, place = raw[name], f"{path}: {name}"
    if not isinstance(section, dict):
        raise ConfigError(f"{place}: expected an object or null, got {section!r}")
    given = {key: section[key] for key in ("rope_type", "type") if section.get(key) is not None}
    kinds = list(given.values()) or ["default"]
    for key, kind in given.items():
        if not isinstance(kind, str) or kind not in _SCALINGS:
            raise ConfigError(f"{place}.{key}: expected {', '.join(_SCALINGS)}, got {kind!r}; this engine knows no other")
        if kind != kinds[0]:
            raise ConfigError(f"{place}.{key}: expected {kinds[0]!r} as in rope_type, got {kind!r}; remove the wrong one")
    read_keys, read_scaling = _SCALINGS[kinds[0]]
    for key, value in section.items():
        if key not in ("rope_type", "type", "rope_theta", "partial_rotary_factor", *read_keys) and value is not None:
            raise ConfigError(f"{place}.{key}: expected no such key for rope type {kinds[0]}, got {value!r}; {kinds[0]} would not use it")
    if section.get("partial_rotary_factor") not in (None, 1):
        raise ConfigError(_partial(f"{place}.", section["partial_rotary_factor"]))
    outer = raw.get("original_max_position_embeddings")
    inner = section.get("original_max_position_embeddings", outer)
    if outer is not None and outer != inner:
        raise ConfigError(f"{path}: original_max_position_embeddings: expected {inner!r} as in {name}, got {outer!r}; remove the wrong one")
    return Rope(_nested_theta(raw, section, name, path), read_scaling(section, f"{place}."))


def _theta(raw: Mapping[str, Any], place: str) -> float:
    if raw.get("rope_theta") is None:
        raise ConfigError(f"{place}rope_theta: expected a number > 0, got None; 10000.0 is what folders without the key mostly mean")
    return positive(raw, "rope_theta", place)


def _nested_theta(raw: Mapping[str, Any], section: Mapping[str, Any], name: str, path: Path) -> float:
    if section.get("rope_theta") is None:
        return _theta(raw, f"{path}: ")
    theta = positive(section, "rope_theta", f"{path}: {name}.")
    if raw.get("rope_theta") not in (None, theta):
        raise ConfigError(f"{path}: rope_theta: expected {theta:g} as in {name}, got {raw['rope_theta']!r}; remove the wrong one")
    return theta


def _partial(place: str, value: Any) -> str:
    return f"{place}partial_rotary_factor: expected 1.0 or absent (every channel turns), got {value!r}"


def _plain(section: Mapping[str, Any], place: str) -> None:
    return None


def _linear(section: Mapping[str, Any], place: str) -> LinearScaling:
    return LinearScaling(positive(section, "factor", place))


def _llama3(section: Mapping[str, Any], place: str) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=positive(section, "factor", place),
        low_freq_factor=positive(section, "low_freq_factor", place),
        high_freq_factor=positive(section, "high_freq_factor", place),
        original_context_tokens=count(section, "original_max_position_embeddings", place),
    )
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if high <= low:
        raise ConfigError(f"{place}high_freq_factor: expected more than low_freq_factor ({low:g}), got {high:g}")
    return scaling


_SCALINGS: Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any], str], LinearScaling | Llama3Scaling | None]]] = {
    "default": ((), _plain),
    "linear": (("factor",), _linear),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), _llama3),
}
"""Rope type: the keys it reads, and their reader."""
