"""The layers of an offline result as a picture: K's and V's ratio of each layer, each with its bound. matplotlib is imported here alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from h2o_gate_plugin.offline.layers import LayerRow, RowPart
from h2o_gate_plugin.offline.result import OfflineResult
from h2o_gate_plugin.plots import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS: tuple[tuple[RowPart, str, str, str, float], ...] = (("k", "K", "o", "black", -0.16), ("v", "V", "s", "white", 0.16))
"""Part, name, marker, fill, place beside the layer's number: told apart without colour."""


def draw_layers(result: OfflineResult, path: Path) -> None:
    """The format by the suffix; the same result gives the same file. Needs matplotlib: `plots.refuse_pictures` asks first."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layers = result.selected_layers
    with rc_context({"svg.hashsalt": "layers"}):
        figure = Figure(figsize=(min(20.0, max(5.5, 1.5 + 0.45 * len(layers))), 4.2), layout="constrained")
        axes = figure.add_subplot()
        for part, name, marker, fill, shift in _MARKS:
            _draw_part(axes, [row for row in result.layers if row.part == part], (name, marker, fill), shift)
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        axes.set(xlabel="layer", ylabel="raw bytes / compressed bytes")
        ticks = range(0, len(layers), 1 + len(layers) // 50)
        axes.set_xticks(ticks, [str(layers[index]) for index in ticks])
        axes.set_title(_title(result), fontsize="medium")
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False)
        metadata = {"Title": _title(result).replace("\n", ", "), "Description": alt_text(result.layers)}
        write_picture(figure, path, metadata, dpi=150)


def alt_text(rows: tuple[LayerRow, ...]) -> str:
    """What the picture shows, in words."""
    apart = [row for row in rows if row.part != "kv"]
    cells = [
        f"layer {row.layer} {row.part.upper()} {row.sums.lossless_ratio:.2f}"
        + ("" if row.bound_ratio is None else f" of {row.bound_ratio:.2f}" + (" EXCEEDED" if row.above_bound else ""))
        for row in apart
    ]
    return f"Lossless ratio per layer, of its entropy bound where there is one: {', '.join(cells)}."


def _draw_part(axes: Axes, rows: list[LayerRow], look: tuple[str, str, str], shift: float) -> None:
    name, marker, fill = look
    places = [index + shift for index in range(len(rows))]
    ratios = [row.sums.lossless_ratio for row in rows]
    bounded = [(place, row.bound_ratio) for place, row in zip(places, rows, strict=True) if row.bound_ratio is not None]
    for place, row in zip(places, rows, strict=True):
        if row.bound_ratio is not None:
            axes.plot([place, place], [row.sums.lossless_ratio, row.bound_ratio], color="0.6", linewidth=0.8, zorder=1)
    axes.plot(places, ratios, marker, markeredgecolor="black", markerfacecolor=fill, markersize=6, label=name)
    if bounded:
        label = f"bound of {name}"
        style = "black" if name == "K" else "0.45"
        axes.plot(*zip(*bounded, strict=True), "_", color=style, markersize=11, markeredgewidth=2, label=label)
    above = [(place, ratio) for place, ratio, row in zip(places, ratios, rows, strict=True) if row.above_bound]
    if above:
        axes.plot(*zip(*above, strict=True), "x", color="red", markersize=13, markeredgewidth=2, label=f"{name} above its bound: error")


def _title(result: OfflineResult) -> str:
    settings = result.settings
    chunk = f" of {settings.online_chunk_seq} tokens" if settings.entry_mode.startswith("chunked") else ""
    name = result.dump_dir.name or str(result.dump_dir)
    return f"Lossless ratio per layer: {name}\n{settings.entry_mode}{chunk}, {settings.codec_mode}, stage {settings.stage}"
