"""Which pictures a case and a run have, from the report alone; one that lacks its data is a line on why, never an empty axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from h2o_gate_plugin.bench.trace import InstanceTrace, KvBytes, Runs
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.report.charts import (
    Band,
    Bar,
    BarChart,
    Chart,
    DataTable,
    KeptMap,
    LayerRuns,
    Level,
    Look,
    NoPicture,
    Series,
    XyChart,
)
from h2o_gate_plugin.report.model import Artifact, CaseReport, RunReport, SpeedPairs, gate_line

BYTES_PER_MIB = 1024 * 1024
KL_NAMES: Mapping[str, tuple[str, Look]] = {
    "kv": ("this configuration", "candidate"),
    "random": ("as many random tokens", "baseline"),
    "window": ("sink and newest alone", "third"),
}
"""Policy in a trace → its name, its look."""
PART_LOOKS: Mapping[str, tuple[str, Look]] = {"k": ("K", "candidate"), "v": ("V", "third")}

RESIDENT, KEPT, DIVERGENCE = "Resident KV over the decode", "Kept tokens by layer and position", "Divergence from the full cache"

Picture = Chart | NoPicture


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that stand together under ``name``, with the files they are drawn from."""

    name: str
    pictures: tuple[Picture, ...]
    artifacts: tuple[Artifact, ...] = ()


def case_pictures(case: CaseReport) -> tuple[PictureGroup, ...]:
    """The budgets of the case, then its runs."""
    runs = (PictureGroup(_run_name(run, case.measured_runs), _run_pictures(run), run.artifacts) for run in case.measured_runs)
    return (PictureGroup("Budgets", (_margins(case),)), *runs)


def _run_name(run: RunReport, runs: Sequence[RunReport]) -> str:
    """By its lengths; by its id too where another run has the same."""
    shown = " ".join(f"{word} {'?' if n is None else n}" for word, n in (("prompt", run.prompt_tokens), ("gen", run.gen_tokens)))
    alike = [other for other in runs if (other.prompt_tokens, other.gen_tokens) == (run.prompt_tokens, run.gen_tokens)]
    return shown if len(alike) == 1 else f"{shown}, {run.run_id}"


def _run_pictures(run: RunReport) -> tuple[Picture, ...]:
    speeds: tuple[Picture, ...] = (NoPicture("Decode speed of the pairs", "no decode speed with a baseline to compare it with"),)
    if run.speeds is not None:
        speeds = (_speeds(run.speeds), _drops(run.speeds))
    if run.trace is None:
        why = run.trace_gap or "no trace"
        return (*speeds, *(NoPicture(title, why) for title in (RESIDENT, KEPT, DIVERGENCE)))
    return (*speeds, _resident(run.trace), _kept(run.trace), _divergence(run.trace))


def offline_pictures(offline: Mapping[str, Any]) -> tuple[Picture, ...]:
    """Ratio per layer with its entropy bound: of the gated online_sim, and of the upper bound where that has layers."""
    title = "Lossless ratio per layer and its entropy bound"
    result = offline.get("online_sim")
    if not result:
        return (NoPicture(title, "no offline result: no KV dump was evaluated"),)
    if not result.get("layers"):
        return (NoPicture(title, "the evaluator's result has no figures of single layers"),)
    return tuple(
        _layer_ratios(f"{title}: {name}", found["layers"])
        for name in ("online_sim", "upper_bound")
        if (found := offline.get(name)) and found.get("layers")
    )


def _speeds(speeds: SpeedPairs) -> XyChart:
    baseline = tuple((float(each.pair), each.baseline_tps) for each in speeds.pairs)
    candidate = tuple((float(each.pair), each.candidate_tps) for each in speeds.pairs)
    faster = sum(each.candidate_tps > each.baseline_tps for each in speeds.pairs)
    rows = tuple(
        (str(each.pair), f"{each.baseline_tps:.1f}", f"{each.candidate_tps:.1f}", f"{_drop_of(each.baseline_tps, each.candidate_tps):+.1%}")
        for each in speeds.pairs
    )
    return XyChart(
        title="Decode speed, pair by pair",
        says=f"{len(speeds.pairs)} pairs; the candidate decodes faster than its baseline in {faster} of them.",
        x_label="pair",
        y_label="tok/s",
        series=(
            Series("baseline, KV features off", "baseline", baseline, marked=True),
            Series("candidate", "candidate", candidate, marked=True),
        ),
        table=DataTable(("pair", "baseline tok/s", "candidate tok/s", "drop"), rows),
        whole_x=True,
    )


def _drops(speeds: SpeedPairs) -> XyChart:
    points = tuple((float(each.pair), 100 * _drop_of(each.baseline_tps, each.candidate_tps)) for each in speeds.pairs)
    bands: tuple[Band, ...] = ()
    sure = "no interval: no test, or too few pairs for one"
    if speeds.least is not None and speeds.most is not None:
        bands = (Band("95 % sure of either end", 100 * speeds.least, 100 * speeds.most),)
        sure = f"95 % sure >= {speeds.least:+.1%}, 95 % sure <= {speeds.most:+.1%}"
    limit = () if speeds.limit is None else (Level("limit", 100 * speeds.limit, limit=True),)
    limit_text = "off" if speeds.limit is None else f"{speeds.limit:+.1%}"
    rows = (("judged drop", f"{speeds.drop:+.2%}"), ("interval", sure), ("limit", limit_text))
    return XyChart(
        title="Decode drop, its interval and limit",
        says=f"Drop {speeds.drop:+.1%} ({sure}), limit {limit_text}; below 0 the candidate is faster.",
        x_label="pair",
        y_label="drop, %",
        series=(Series("drop of a pair", "candidate", points, joined=False, marked=True),),
        table=DataTable(("figure", "value"), (*rows, *((f"pair {int(pair)}", f"{drop:+.2f} %") for pair, drop in points))),
        levels=(Level("judged drop", 100 * speeds.drop), *limit),
        bands=bands,
        whole_x=True,
    )


def _drop_of(baseline_tps: float, candidate_tps: float) -> float:
    return 1 - candidate_tps / baseline_tps


def _resident(trace: InstanceTrace) -> XyChart:
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


def _kept(trace: InstanceTrace) -> Picture:
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


def _divergence(trace: InstanceTrace) -> Picture:
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


def _margins(case: CaseReport) -> Picture:
    title = "Share of each budget that is used"
    judged = [(gate, share) for gate in case.gates if (share := budget_share(gate)) is not None]
    if not judged:
        return NoPicture(title, "no gate of this case has both a value and a limit")
    bars = tuple(Bar(gate.name, share, share_text(gate, share), gate.failed) for gate, share in judged)
    over = [bar.name for bar in bars if bar.share > 1]
    rows = []
    for gate, share in judged:
        shown = gate_line(gate)
        rows.append((gate.name, shown.status, shown.value, shown.limit, shown.margin, shown.unit, share_text(gate, share)))
    nearest = max(bars, key=lambda bar: bar.share)
    told = f"None is over its budget; nearest to its limit: {nearest.name}, {nearest.text}."
    if over:
        told = f"Over budget: {', '.join(over)}."
    return BarChart(
        title=title,
        says=told,
        x_label="share of the budget",
        bars=bars,
        table=DataTable(("gate", "status", "value", "limit", "margin", "unit", "used"), tuple(rows)),
    )


def budget_share(gate: GateResult) -> float | None:
    """How much of its budget a gate uses: value / limit where less is better, limit / value where more is; 1 is the limit.

    A limit of 0 is used up by any value above it: infinite then, 0 at 0. None without a value or a limit, or when the gate is off.
    """
    if gate.margin is None or gate.value is None or gate.limit is None:
        return None
    used, budget = (gate.value, gate.limit) if gate.direction == "<=" else (gate.limit, gate.value)
    if budget > 0:
        return used / budget
    return 0.0 if used <= budget else float("inf")


def share_text(gate: GateResult, share: float) -> str:
    if share == float("inf"):
        return "over 0"
    if gate.limit == 0 and gate.value == 0:
        return "0 of 0"
    return f"{share:,.0f}x" if share >= 10 else f"{share:.0%}"


def _layer_ratios(title: str, rows: Sequence[Mapping[str, Any]]) -> XyChart:
    """``rows``: the evaluator's, one per layer and part; ``bound_ratio`` may be None."""
    apart = [row for row in rows if row["part"] in PART_LOOKS]
    series = []
    for part, (name, look) in PART_LOOKS.items():
        of_part = [row for row in apart if row["part"] == part]
        shift = -0.12 if part == "k" else 0.12
        ratios = tuple((row["layer"] + shift, float(row["lossless_ratio"])) for row in of_part)
        bounds = tuple((row["layer"] + shift, float(row["bound_ratio"])) for row in of_part if row.get("bound_ratio") is not None)
        series.append(Series(name, look, ratios, joined=False, marked=True))
        series.append(Series(f"bound of {name}", "baseline" if part == "k" else "fourth", bounds, joined=False, marked=True))
    above = [f"layer {row['layer']} {row['part'].upper()}" for row in apart if row.get("above_bound")]
    cells = tuple(
        (
            str(row["layer"]),
            row["part"].upper(),
            f"{row['lossless_ratio']:.3f}",
            "n/a" if row.get("bound_ratio") is None else f"{row['bound_ratio']:.3f}",
        )
        for row in apart
    )
    told = f"ABOVE their bound, an accounting error: {', '.join(above)}." if above else "No ratio is above its bound."
    return XyChart(
        title=title,
        says=f"Raw bytes / compressed bytes of K and V in {len({row['layer'] for row in apart})} layers. {told}",
        x_label="layer",
        y_label="ratio",
        series=tuple(each for each in series if each.points),
        table=DataTable(("layer", "part", "ratio", "entropy bound"), cells),
        levels=(Level("nothing gained", 1.0),),
        whole_x=True,
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
