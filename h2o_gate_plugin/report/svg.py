"""Charts as inline SVG: text in the page's font, colours by the page's CSS classes, so that light, dark and print follow the page."""

from __future__ import annotations

import base64

from h2o_gate_plugin.report.axes import Scale, extent, tick_texts, ticks
from h2o_gate_plugin.report.charts import Bar, BarChart, Chart, KeptMap, Series, XyChart
from h2o_gate_plugin.report.plain_text import escape
from h2o_gate_plugin.report.png import bitmap_png

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 8, 36
XY_HEIGHT = 230
LAYER_PIXELS, LAYER_GAP = 12, 2
KEPT_COLOUR = (59, 130, 196)
"""Reads on white and on black."""
BAR_HEIGHT, NAME_WIDTH, TEXT_WIDTH = 18, 158, 54
MOST_SHARE = 1.5
"""Where bars end; a longer one has an arrow."""


def svg(chart: Chart, key: str) -> str:
    """``key``: unique in the page; the ids of title and description begin with it."""
    draw = {XyChart: _xy, BarChart: _bars, KeptMap: _kept}[type(chart)]
    height, body = draw(chart)  # type: ignore[operator]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(chart.title)}</title><desc id="{key}-d">{escape(chart.says)}</desc>{body}</svg>'
    )


def swatch(series: Series) -> str:
    """A piece of the series' line for the legend."""
    line = f'<path class="line {series.look}" d="M1 6H27"/>' if series.joined else ""
    return f'<svg viewBox="0 0 28 12" class="swatch" aria-hidden="true">{line}{_mark(series, 14, 6) if series.marked else ""}</svg>'


def _xy(chart: XyChart) -> tuple[float, str]:
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    ys += [level.y for level in chart.levels] + [end for band in chart.bands for end in (band.low, band.high)]
    x_scale = Scale(*(_whole_extent(xs) if chart.whole_x else extent(xs, False, room=0.0)), LEFT, WIDTH - RIGHT)
    y_scale = Scale(*extent(ys, chart.from_zero), XY_HEIGHT - BOTTOM, TOP)
    parts = [_grid(chart, x_scale, y_scale)]
    for band in chart.bands:
        low, high = y_scale.at(band.low), y_scale.at(band.high)
        parts.append(f'<rect class="band" x="{LEFT}" y="{high:.1f}" width="{WIDTH - RIGHT - LEFT}" height="{max(low - high, 0.5):.1f}"/>')
    for level in chart.levels:
        kind = "limit" if level.limit else "level"
        parts.append(f'<path class="{kind}" d="M{LEFT} {y_scale.at(level.y):.1f}H{WIDTH - RIGHT}"/>')
    for series in reversed(chart.series):  # the first on top
        places = [(x_scale.at(x), y_scale.at(y)) for x, y in series.points]
        if series.joined and places:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line {series.look}" d="M{path}"/>')
        if series.marked:
            parts += [_mark(series, x, y) for x, y in places]
    return XY_HEIGHT, "".join(parts)


def _whole_extent(xs: list[float]) -> tuple[float, float]:
    return (min(xs, default=0.0) - 0.5, max(xs, default=1.0) + 0.5)


def _grid(chart: XyChart, x_scale: Scale, y_scale: Scale) -> str:
    parts = []
    y_ticks = ticks(y_scale.low, y_scale.high, 6)
    for value, text in zip(y_ticks, tick_texts(y_ticks), strict=True):
        y = y_scale.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>{_text(text, LEFT - 5, y + 3.5, "end")}')
    x_ticks = ticks(x_scale.low, x_scale.high, 8, whole=chart.whole_x)
    base = XY_HEIGHT - BOTTOM
    for value, text in zip(x_ticks, tick_texts(x_ticks), strict=True):
        x = x_scale.at(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>{_text(text, x, base + 15, "middle")}')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
    parts.append(_text(chart.x_label, (LEFT + WIDTH - RIGHT) / 2, XY_HEIGHT - 5, "middle"))
    middle = (TOP + base) / 2
    parts.append(f'<text x="11" y="{middle:g}" text-anchor="middle" transform="rotate(-90 11 {middle:g})">{escape(chart.y_label)}</text>')
    return "".join(parts)


def _mark(series: Series, x: float, y: float) -> str:
    """Disc, ring, square or cross."""
    if series.look == "candidate":
        return f'<circle class="mark filled candidate" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    if series.look == "third":
        return f'<rect class="mark filled third" x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>'
    if series.joined:
        return f'<circle class="mark {series.look}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    return f'<path class="mark {series.look}" d="M{x - 6:.1f} {y:.1f}h12"/>'


def _bars(chart: BarChart) -> tuple[float, str]:
    scale = Scale(0.0, MOST_SHARE, NAME_WIDTH, WIDTH - TEXT_WIDTH)
    height = len(chart.bars) * BAR_HEIGHT + 34
    base = height - 32
    parts = [_bar(bar, 2 + index * BAR_HEIGHT, scale) for index, bar in enumerate(chart.bars)]
    for share in (0.0, 0.5, 1.0, 1.5):
        parts.append(
            f'<path class="axis" d="M{scale.at(share):.1f} {base}v4"/>{_text(f"{share:.0%}", scale.at(share), base + 15, "middle")}'
        )
    parts.append(f'<path class="axis" d="M{scale.at(0):.1f} {base}H{scale.at(MOST_SHARE):.1f}"/>')
    parts.append(f'<path class="limit" d="M{scale.at(1):.1f} 0V{base}"/>')
    parts.append(_text(chart.x_label, (NAME_WIDTH + WIDTH - TEXT_WIDTH) / 2, height - 3, "middle"))
    return height, "".join(parts)


def _bar(bar: Bar, y: float, scale: Scale) -> str:
    end = scale.at(min(max(bar.share, 0.0), MOST_SHARE))
    word = "FAIL" if bar.failed or bar.share > 1 else "PASS"
    drawn = f'<rect class="bar {word}" x="{scale.at(0):.1f}" y="{y + 3}" width="{end - scale.at(0):.1f}" height="{BAR_HEIGHT - 7}"/>'
    if bar.share > MOST_SHARE:
        drawn += f'<path class="bar {word}" d="M{end:.1f} {y}l7 {BAR_HEIGHT / 2 - 0.5}l-7 {BAR_HEIGHT / 2 - 0.5}z"/>'
    mark = "✗ " if bar.failed else ""
    return f"{_text(mark + bar.name, NAME_WIDTH - 6, y + 13, 'end')}{drawn}{_text(bar.text, WIDTH, y + 13, 'end')}"


def _kept(chart: KeptMap) -> tuple[float, str]:
    """One pixel a position; the browser averages where there is less room."""
    x_scale = Scale(0.0, float(chart.n_positions), LEFT, WIDTH - RIGHT)
    rows = []
    for layer in chart.layers:
        rows += [layer.runs or ()] * (LAYER_PIXELS - LAYER_GAP) + [()] * LAYER_GAP
    height_px = len(chart.layers) * LAYER_PIXELS
    data = base64.b64encode(bitmap_png(rows, chart.n_positions, KEPT_COLOUR)).decode("ascii")
    every = 1 + len(chart.layers) // 24
    labels = [
        _text(f"layer {layer.layer}", LEFT - 5, TOP + index * LAYER_PIXELS + 9.5, "end")
        for index, layer in enumerate(chart.layers)
        if index % every == 0
    ]
    unknown = [
        _text("not in the trace", LEFT + 6, TOP + index * LAYER_PIXELS + 9.5, "start")
        for index, layer in enumerate(chart.layers)
        if layer.runs is None
    ]
    base = TOP + height_px
    image = (
        f'<rect class="field" x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" height="{height_px}"/>'
        f'<image href="data:image/png;base64,{data}" x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" height="{height_px}" '
        'preserveAspectRatio="none"/>'
    )
    values = ticks(0.0, float(chart.n_positions), 6, whole=True)
    marks = [
        f'<path class="axis" d="M{x_scale.at(value):.1f} {base}v4"/>{_text(text, x_scale.at(value), base + 15, "middle")}'
        for value, text in zip(values, tick_texts(values), strict=True)
    ]
    prompt = x_scale.at(min(chart.prompt_tokens, chart.n_positions))
    ends = f'<path class="limit" d="M{prompt:.1f} {TOP - 6}V{base + 4}"/>'
    label = _text("position (dashed: end of the prompt)", (LEFT + WIDTH - RIGHT) / 2, base + 31, "middle")
    return base + 36, "".join([*labels, image, *unknown, *marks, ends, label])


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
