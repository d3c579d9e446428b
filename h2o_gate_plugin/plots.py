"""Pictures of matplotlib, which is an extra: whether it is there, whether the file's name says what is in it, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def write_picture(figure: Figure, path: Path, metadata: Mapping[str, str] | None = None, dpi: float | None = None) -> None:
    """The format by the suffix; the same figure gives the same file. ``dpi`` None: the figure's own."""
    picture = path.suffix.lower().removeprefix(".")
    undated = {"Date": None} if picture == "svg" else {}
    with written_whole(path) as partial:
        figure.savefig(partial, format=picture, dpi=dpi or "figure", metadata={**(metadata or {}), **undated})
