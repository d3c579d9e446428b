"""Ratio against decode speed, a point per codec, labelled where it stands; front and deep layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

TITLES = {"front": "front layers (0 and 1)", "deep": "deep layers"}
LINE_POINTS = 8.5
"""Height of a label."""


class Point(NamedTuple):
    """K and V together. ``bound_ratio``: of plain order-0 entropy."""

    codec: str
    own: bool
    layers: str
    ratio: float
    bound_ratio: float
    decode_mb_s: float


def draw(points: Sequence[Point], path: Path) -> None:
    """Needs matplotlib. Filled circles are ours, hollow squares others: it reads without colour."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    from matplotlib import pyplot, ticker

    matplotlib.rcParams["svg.hashsalt"] = "codecs"  # the same points give the same file
    figure, axes = pyplot.subplots(1, len(TITLES), figsize=(12, 5), sharex=True)
    speeds = [point.decode_mb_s for point in points]
    for axis, (layers, title) in zip(axes, TITLES.items(), strict=True):
        here = [point for point in points if point.layers == layers]
        axis.set(xscale="log", xlim=(min(speeds) / 1.5, max(speeds) * (max(speeds) / min(speeds)) ** 0.9), title=title)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set(xlabel="decode, MB/s of raw KV, one thread", ylabel="raw bytes / packed bytes, K and V")
        axis.axhline(here[0].bound_ratio, linestyle=":", color="0.4")
        axis.annotate(
            "order-0 entropy", (0.01, here[0].bound_ratio), xycoords=("axes fraction", "data"), va="bottom", color="0.3", fontsize=7
        )
        for own, marker, fill in ((True, "o", "black"), (False, "s", "none")):
            these = [point for point in here if point.own == own]
            axis.plot(
                [point.decode_mb_s for point in these],
                [point.ratio for point in these],
                marker,
                color="black",
                markerfacecolor=fill,
                label="this project" if own else "others",
            )
        axis.margins(y=0.12)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    for axis, layers in zip(axes, TITLES, strict=True):
        label(axis, sorted((point for point in points if point.layers == layers), key=lambda point: point.ratio))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def label(axis: Any, points: Sequence[Point]) -> None:
    """Names right of all points, each pushed up as far as the one below it needs, a thin line from the point. Least ratio first."""
    to_pixels, step = axis.transData.transform, LINE_POINTS * axis.figure.dpi / 72
    heights = [to_pixels((point.decode_mb_s, point.ratio))[1] for point in points]
    right = max(to_pixels((point.decode_mb_s, point.ratio))[0] for point in points) + 2 * step
    spread = apart(heights, step)
    for point, height in zip(points, spread, strict=True):
        at = axis.transData.inverted().transform((right, height))
        axis.annotate(
            point.codec,
            (point.decode_mb_s, point.ratio),
            xytext=tuple(at),
            textcoords="data",
            fontsize=7,
            va="center",
            weight="bold" if point.own else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 3},
        )


def apart(heights: Sequence[float], step: float) -> list[float]:
    """Ascending ``heights`` moved as little as keeps neighbours ``step`` apart: groups that touch are centred on their mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and middle(groups[-1]) - middle(groups[-2]) < step * (len(groups[-1]) + len(groups[-2])) / 2:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [middle(group) + step * (at - (len(group) - 1) / 2) for group in groups for at in range(len(group))]


def middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)
