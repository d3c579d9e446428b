"""Pictures of what an engine traced: resident KV over the decode, kept tokens, divergence by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from h2o_gate_plugin.bench.trace import InstanceTrace, KvBytes, Runs
from h2o_gate_plugin.report.charts import DataTable, KeptMap, LayerRuns, Look, NoPicture, Picture, Series, XyChart

BYTES_PER_MIB = 1024 * 1024
KL_NAMES: Mapping[str, tuple[str, Look]] = {
    "kv": ("this configuration", "candidate"),
    "random": ("as many random tokens", "baseline"),
    "window": ("sink and newest alone", "third"),
}
"""Policy in a trace → its name, its look."""
RESIDENT, KEPT, DIVERGENCE = "Resident KV over the decode", "Kept tokens by layer and position", "Divergence from the full cache"


def resident(trace: InstanceTrace) -> XyChart:
    first, end = trace.range_layers
    in_range = f"layers {first} to {end - 1}" if end > first else "no layer"
    last, after = _at(trace.decode, -1), _at(trace.end, 0)
    drawn: tuple[tuple[str, Look, str], ...] = (
        ("all layers, full KV", "baseline", "full_bytes"),
        ("all layers, resident", "candidate", "resident_bytes"),
        (f"H2O's range ({in_range}), full KV", "fourth", "range_full_bytes"),
        ("H2O's range, resident", "third", "range_resident_bytes"),
    )
    series = tuple(
        Series(
            name,
            look,
            tuple((float(tokens), _mib(n)) for tokens, n in zip(trace.decode.tokens, getattr(trace.decode, column), strict=True)),
        )
        for name, look, column in drawn
    )
    rows = [(str(moment["tokens"]), *(f"{_mib(moment[column]):.3f}" for _, _, column in drawn)) for moment in _sampled(trace.decode)]
    rows.append(("after the turn", *(f"{_mib(after[column]):.3f}" for _, _, column in drawn)))
    held = f"{_ratio(last['range_full_bytes'], last['range_resident_bytes'])} while decoding, "
    held += f"{_ratio(after['range_full_bytes'], after['range_resident_bytes'])} after the turn"
    return XyChart(
        title=RESIDENT,
        says=f"After the last token {_mib(last['resident_bytes']):.2f} of {_mib(last['full_bytes']):.2f} MiB; full / resident of H2O's "
        f"range {held}.",
        x_label="tokens seen",
        y_label="MiB",
        series=series,
        table=DataTable(("tokens seen", *(f"{name}, MiB" for name, _, _ in drawn)), tuple(rows)),
        from_zero=True,
    )


def kept(trace: InstanceTrace) -> Picture:
    known = [runs for runs in trace.kept if runs is not None]
    if not known:
        return NoPicture(KEPT, "the trace holds no kept positions")
    seen = max(trace.seen_tokens, *(end for runs in known for _, end in runs), 1)
    rows = tuple(
        (str(layer), "n/a", "n/a", "n/a")
        if runs is None
        else (str(layer), str(sum(end - start for start, end in runs)), str(len(runs)), _first_runs(runs))
        for layer, runs in enumerate(trace.kept)
    )
    return KeptMap(
        title=KEPT,
        says=f"{'; '.join(_kept_lines(trace.kept, seen))}.",
        n_positions=seen,
        prompt_tokens=trace.prompt_tokens,
        layers=tuple(LayerRuns(layer, runs) for layer, runs in enumerate(trace.kept)),
        table=DataTable(("layer", "kept tokens", "runs", "longest runs [start, end)"), rows),
    )


def _kept_lines(layers: Sequence[Runs | None], seen: int) -> tuple[str, ...]:
    """``layers 2 to 7 keep 204 of 640``: neighbours that keep alike are told together."""
    counts = [None if runs is None else sum(end - start for start, end in runs) for runs in layers]
    lines = []
    for count, alike in groupby(enumerate(counts), key=lambda item: item[1]):
        numbers = [layer for layer, _ in alike]
        named = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}"
        verb = "keeps" if len(numbers) == 1 else "keep"
        lines.append(f"{named}: not in the trace" if count is None else f"{named} {verb} {'all' if count == seen else count} of {seen}")
    return tuple(lines)


def _first_runs(runs: Sequence[tuple[int, int]]) -> str:
    longest = sorted(sorted(runs, key=lambda run: run[0] - run[1])[:4])
    return " ".join(f"[{start}, {end})" for start, end in longest)


def divergence(trace: InstanceTrace) -> Picture:
    by_position = {name: values for name, values in (trace.kl_by_position or {}).items() if name in KL_NAMES and values}
    if not by_position:
        return NoPicture(DIVERGENCE, "the engine measured no quality in this run")
    series = tuple(
        Series(look[0], look[1], tuple((float(place), value) for place, value in enumerate(by_position[name], 1) if value is not None))
        for name, look in KL_NAMES.items()
        if name in by_position
    )
    means = {each.name: sum(y for _, y in each.points) / len(each.points) for each in series if each.points}
    length = max(len(values) for values in by_position.values())
    eighth = max(1, length // 8)
    rows = tuple(
        (
            f"{start + 1} to {min(start + eighth, length)}",
            *(_mean_text(by_position[name][start : start + eighth]) for name in KL_NAMES if name in by_position),
        )
        for start in range(0, length, eighth)
    )
    return XyChart(
        title=DIVERGENCE,
        says=f"Mean KL in nats: {', '.join(f'{name} {mean:.3f}' for name, mean in means.items())}.",
        x_label="token of the continuation",
        y_label="KL, nats",
        series=series,
        table=DataTable(("positions", *(f"{each.name}, mean KL" for each in series)), rows),
        from_zero=True,
    )


def _sampled(kv: KvBytes) -> tuple[dict[str, int], ...]:
    """Nine moments at most, the first and the last among them."""
    last = len(kv.tokens) - 1
    return tuple(_at(kv, index) for index in dict.fromkeys(round(step * last / 8) for step in range(9)))


def _at(kv: KvBytes, index: int) -> dict[str, int]:
    return {name: values[index] for name, values in vars(kv).items()}


def _mib(n_bytes: int) -> float:
    return n_bytes / BYTES_PER_MIB


def _ratio(full: int, resident: int) -> str:
    return f"{full / resident:.2f}x" if resident else "n/a"


def _mean_text(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4f}" if known else "n/a"
