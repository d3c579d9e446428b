"""A metric over runs as a picture: a panel for each series, readable without colour. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2o_gate_plugin.history.trend import Point, Series
from h2o_gate_plugin.plots import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, PANEL_IN, FOOT_IN = 9.0, 2.1, 0.9
LINE, LIMIT, FAILED, CHANGE = "#1f4e79", "#b22222", "#b22222", "#555555"
MOST_LABELS = 16
MOST_PANELS = 24
"""Laying out panels takes matplotlib the more time each the more there are: minutes for a hundred."""
MOST_DOTS = 200
"""Values with a dot each: more would be a band that hides the line."""


def write_trend_picture(paths: Sequence[Path], title: str, series: Sequence[Series]) -> None:
    """One picture in each of ``paths``, its format by the suffix."""
    figure = trend_figure(title, series)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(figure, path)


def trend_figure(title: str, series: Sequence[Series]) -> Figure:
    """All panels share their runs, in the order of their start; the title counts the series beyond `MOST_PANELS`."""
    from matplotlib.figure import Figure  # late: it is an extra, and takes half a second

    more = len(series) - MOST_PANELS
    if more > 0:
        title, series = f"{title}; {more} more series are in the table", series[:MOST_PANELS]
    runs = {point.run.id: point.run for each in series for point in each.points}
    order = {run.id: index for index, run in enumerate(sorted(runs.values(), key=lambda run: (run.started_utc, run.id)))}
    height = PANEL_IN * len(series) + FOOT_IN + 0.5
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    panels: Any = figure.subplots(len(series), 1, sharex=True, squeeze=False)
    for axes, each in zip(panels[:, 0], series, strict=True):
        _panel(axes, each, order)
    _name_runs(panels[-1, 0], list(order))
    figure.align_ylabels(list(panels[:, 0]))
    return figure


def _panel(axes: Axes, series: Series, order: dict[str, int]) -> None:
    at = [(order[point.run.id], point) for point in series.points]
    measured = [(x, point.value) for x, point in at if point.value is not None]
    look: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.3} if len(measured) <= MOST_DOTS else {"linewidth": 0.7}
    axes.plot([x for x, _ in measured], [value for _, value in measured], color=LINE, label="value", **look)
    failed = [(x, point.value) for x, point in at if point.failed and point.value is not None]
    if failed:
        axes.plot([x for x, _ in failed], [value for _, value in failed], "X", color=FAILED, markersize=9, label="not passed")
    limits = [(x, point.limit) for x, point in at if point.limit is not None and point.status != "OFF"]
    if limits:
        side = f" ({series.direction})" if series.direction else ""
        axes.step([x for x, _ in limits], [limit for _, limit in limits], "--", where="mid", color=LIMIT, label=f"limit{side}")
    gaps = [(x, point) for x, point in at if point.value is None]
    for x, point in [*gaps, *((x, point) for x, point in at if point.change)]:
        _mark(axes, x, point)
    axes.set_title(series.title, fontsize=9, loc="left")
    axes.set_ylabel(series.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.margins(y=0.25)
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _mark(axes: Axes, x: int, point: Point) -> None:
    """A dotted line with what it stands for; half a step before the run whose budget is a new one."""
    told = point.change.text.partition(" (")[0] if point.change else point.status.replace("_", " ").lower()
    place = x - 0.5 if point.change else x
    axes.axvline(place, linestyle=":", color=CHANGE, linewidth=1.0)
    axes.annotate(
        told,
        (place, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        fontsize=7,
        va="top",
        color=CHANGE,
    )


def _name_runs(axes: Axes, names: list[str]) -> None:
    """Not every run when there are many: the first, the last, and some between."""
    step = max(1, -(-len(names) // MOST_LABELS))
    shown = [index for index in range(len(names)) if (len(names) - 1 - index) % step == 0]
    axes.set_xticks(shown, [names[index] for index in shown], rotation=30, ha="right", fontsize=7)
