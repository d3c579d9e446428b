"""Before a picture is drawn with matplotlib, which is an extra: whether it is there, and whether the file's name says what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError

PLOTS = "pip install 'pytest-h2o-gate[plots]'"


def can_draw() -> bool:
    try:
        return find_spec("matplotlib") is not None
    except ValueError:  # marked as absent by whoever imported first
        return False


def refuse_pictures(pictures: Mapping[str, Path | None]) -> None:
    """``pictures``: option → file; ``--out-svg`` and ``--svg`` take ``.svg``, and so on. Raises ConfigError before anything is done."""
    for flag, path in pictures.items():
        if path is None:
            continue
        suffix = f".{flag.rpartition('-')[2]}"
        if path.suffix.lower() != suffix:
            raise ConfigError(f"{flag}: {path}: expected a name that ends in {suffix}, got {path.suffix or 'none'}; rename it")
        if not can_draw():
            raise ConfigError(f"{flag}: {path}: expected matplotlib to draw it, got no such package; {PLOTS}, or leave it out")
