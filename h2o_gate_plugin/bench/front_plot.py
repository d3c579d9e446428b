"""The front of a sweep as pareto.svg: ratio against speed, quality as lightness, readable in grey. Needs matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2o_gate_plugin.bench.front import Front, FrontRun
from h2o_gate_plugin.plots import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis_r"
"""Its lightness falls with the value, so that it reads the same in grey: light is close to the full cache."""
PANEL_IN = (7.6, 4.0)
MOST_PANELS = 12
"""Laying out panels takes matplotlib the more time each the more there are: minutes for a hundred."""
NUMBER_ROOM = (0.05, 0.04)
"""What the number of a run takes of a panel's width and height."""


def write_front_picture(path: Path, title: str, front: Front) -> None:
    """The format by the suffix."""
    write_picture(front_figure(title, front), path)


def front_figure(title: str, front: Front) -> Figure:
    """A panel for each prompt and gen length; the title counts those beyond `MOST_PANELS`."""
    from matplotlib.figure import Figure  # late: it is an extra, and takes half a second

    groups = dict(islice(front.groups().items(), MOST_PANELS))
    more = len(front.groups()) - len(groups)
    figure = Figure(figsize=(PANEL_IN[0], PANEL_IN[1] * len(groups) + 0.4), layout="constrained", dpi=110)
    figure.suptitle(title + (f"; {more} more lengths are in sweep.csv" if more else ""), fontsize=11, x=0.01, ha="left", fontweight="bold")
    panels: Any = figure.subplots(len(groups), 1, squeeze=False)
    known = [quality for run in front.runs if (quality := run.quality(front.quality)) is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    shades = {"cmap": COLOURS, "vmin": low, "vmax": high if high > low else low + 1e-9}
    for axes, ((prompt, gen), runs) in zip(panels[:, 0], groups.items(), strict=True):
        _panel(axes, front, runs, shades)
        axes.set_title(f"prompt {prompt} gen {gen}{_left_out(runs)}", fontsize=9, loc="left")
        if known and front.quality is not None and axes.collections:
            bar = figure.colorbar(axes.collections[0], ax=axes, pad=0.01)
            bar.set_label(f"{front.quality.name} ({front.quality.unit}), lower is better", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    return figure


def _panel(axes: Axes, front: Front, runs: Sequence[FrontRun], shades: dict[str, Any]) -> None:
    """The front large, ringed and, where there is room, numbered; the dominated small; a square is a ratio that is claimed, not held."""
    placed = [run for run in runs if run.total_ratio is not None and run.decode_tps is not None]
    for status, size, edge in (("dominated", 28, 0.5), ("front", 95, 1.8)):
        for source, marker in (("held", "o"), ("claimed", "s")):
            chosen = [run for run in placed if run.status == status and run.ratio_source == source]
            if not chosen:
                continue
            qualities: Any = [run.quality(front.quality) for run in chosen] if front.quality else "white"
            x, y = ([run.total_ratio for run in chosen], [run.decode_tps for run in chosen])
            colours = shades if front.quality else {}
            name = f"{status} ({source} ratio)"
            axes.scatter(x, y, s=size, c=qualities, marker=marker, edgecolors="black", linewidths=edge, label=name, **colours)  # type: ignore[arg-type]
    unknown = [run for run in placed if run.status == "not measured"]
    if unknown:
        x, y = ([run.total_ratio for run in unknown], [run.decode_tps for run in unknown])
        axes.scatter(x, y, s=28, c="white", marker="D", edgecolors="black", linewidths=0.8, label="quality not measured")  # type: ignore[arg-type]
    for run in numbered(placed):
        number = run.run_id.split("_")[1].lstrip("0")
        axes.annotate(number, (run.total_ratio or 0.0, run.decode_tps or 0.0), xytext=(7, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("total ratio (KV before / KV after, higher is better)", fontsize=8)
    axes.set_ylabel("decode tok/s (higher is better)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    if placed:
        axes.legend(fontsize=7, loc="best", framealpha=0.85)


def numbered(placed: Sequence[FrontRun]) -> list[FrontRun]:
    """Those of the front whose number has room, by rising ratio: a front of dozens would be a heap of digits."""
    points = {run.run_id: (run.total_ratio or 0.0, run.decode_tps or 0.0) for run in placed}
    room = [share * (max(values) - min(values)) for share, values in zip(NUMBER_ROOM, zip(*points.values(), strict=True), strict=False)]
    chosen: list[FrontRun] = []
    for run in sorted((run for run in placed if run.status == "front"), key=lambda run: points[run.run_id]):
        apart = [[abs(a - b) for a, b in zip(points[run.run_id], points[other.run_id], strict=True)] for other in chosen]
        if all(away[0] >= room[0] or away[1] >= room[1] for away in apart):
            chosen.append(run)
    return chosen


def _left_out(runs: Sequence[FrontRun]) -> str:
    """What has no place in the picture, so that nothing is missing in silence."""
    counts = Counter(run.status for run in runs if run.total_ratio is None or run.decode_tps is None)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"; not drawn: {told}" if told else ""
