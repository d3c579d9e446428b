"""Pictures as data: what is drawn, what it says in words, and its figures as a table. `svg` draws them and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Look = Literal["candidate", "baseline", "third", "fourth"]
"""Colour and stroke or mark of a series; each is told from the others without colour too."""
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class DataTable:
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Series:
    """``points``: (x, y), in order. ``joined``: by a line; ``marked``: by a mark at each point."""

    name: str
    look: Look
    points: Points
    joined: bool = True
    marked: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line; a ``limit`` is drawn as one."""

    name: str
    y: float
    limit: bool = False


@dataclass(frozen=True)
class Band:
    """A horizontal strip: what a value surely lies within."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class XyChart:
    """``whole_x``: ticks at whole numbers only. ``from_zero``: the y axis starts at 0."""

    title: str
    says: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    table: DataTable
    levels: tuple[Level, ...] = ()
    bands: tuple[Band, ...] = ()
    from_zero: bool = False
    whole_x: bool = False


@dataclass(frozen=True)
class Bar:
    """``share``: of the budget that is used, 1 = all; ``text``: beside it."""

    name: str
    share: float
    text: str
    failed: bool


@dataclass(frozen=True)
class BarChart:
    title: str
    says: str
    x_label: str
    bars: tuple[Bar, ...]
    table: DataTable


@dataclass(frozen=True)
class LayerRuns:
    """Runs [start, end) of kept positions; None where they are not known."""

    layer: int
    runs: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class KeptMap:
    """Positions 0 to ``n_positions`` by layer; ``prompt_tokens`` of them are the prompt's."""

    title: str
    says: str
    n_positions: int
    prompt_tokens: int
    layers: tuple[LayerRuns, ...]
    table: DataTable


@dataclass(frozen=True)
class NoPicture:
    """What cannot be drawn, and why."""

    title: str
    why: str


Chart = XyChart | BarChart | KeptMap
