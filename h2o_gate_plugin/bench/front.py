"""The Pareto front of a sweep: runs that no other run of the same lengths beats in ratio, speed and quality at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from h2o_gate_plugin.bench.measurement import ProcessRecord
from h2o_gate_plugin.bench.preset import BenchConfig
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.kv_options import KvValue

FrontStatus = Literal["front", "dominated", "not measured", "failed", "not run"]
RatioSource = Literal["held", "claimed"]
Objectives = tuple[float, ...]
"""The larger the better, each."""

RANGE_FULL, RANGE_DECODE, RANGE_TURN = "kv_range_full_mb", "kv_range_decode_mb", "kv_range_resident_mb"


@dataclass(frozen=True)
class Quality:
    """What stands for quality in a whole sweep; the smaller the better."""

    name: str
    unit: str


KL = Quality("kl_mean", "nats")
NLL_RATIO = Quality("nll_kv / nll_full", "ratio")


@dataclass(frozen=True)
class FrontRun:
    """One planned run. ``swept``: its values of the keys that the preset sweeps. Not measured is None.

    ``total_ratio``: "held" = KV bytes of the H2O layers without compression / those alive, at the worse of two moments, while decoding
    and after the turn; "claimed" = h2o_lossy x h2o_lossless, where the engine prints no bytes. ``turn_ratio``: held
    after the turn alone, where a store has packed what it can. ``reason``: why it is not on the front.
    """

    run_id: str
    prompt: int
    gen: int
    swept: Mapping[str, KvValue]
    status: FrontStatus
    reason: str | None = None
    decode_tps: float | None = None
    total_ratio: float | None = None
    ratio_source: RatioSource | None = None
    turn_ratio: float | None = None
    h2o_lossy: float | None = None
    h2o_lossless: float | None = None
    kl_mean: float | None = None
    nll_ratio: float | None = None

    def quality(self, measure: Quality | None) -> float | None:
        return None if measure is None else self.kl_mean if measure is KL else self.nll_ratio

    def objectives(self, measure: Quality | None) -> Objectives | None:
        """None when one of them is not measured."""
        quality = self.quality(measure)
        if self.decode_tps is None or self.total_ratio is None or (measure is not None and quality is None):
            return None
        return (self.total_ratio, self.decode_tps, *(() if quality is None else (-quality,)))


@dataclass(frozen=True)
class Front:
    """``runs`` in the order of the plan. ``quality`` None: no run tells, and the front is of ratio and speed alone."""

    runs: tuple[FrontRun, ...]
    quality: Quality | None

    def groups(self) -> Mapping[tuple[int, int], tuple[FrontRun, ...]]:
        """(prompt, gen) → its runs: a longer prompt compresses better and decodes slower whatever the configuration."""
        lengths = dict.fromkeys((run.prompt, run.gen) for run in self.runs)
        return {pair: tuple(run for run in self.runs if (run.prompt, run.gen) == pair) for pair in lengths}


def pareto_front(points: Sequence[Objectives]) -> tuple[int | None, ...]:
    """For each point None when it is on the front, else the index of a point of the front that dominates it.

    Equal points do not dominate each other. Whatever dominates a point comes before it in falling order, so that each is held against the
    front so far alone, for the thousands of runs of a sweep.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=points.__getitem__, reverse=True):
        if not any(dominates(points[at], points[index]) for at in front):
            front.append(index)
    front.sort()
    beaten_by: list[int | None] = [next((at for at in front if dominates(points[at], point)), None) for point in points]
    return tuple(beaten_by)


def dominates(a: Objectives, b: Objectives) -> bool:
    return a != b and all(left >= right for left, right in zip(a, b, strict=True))


def front_of(configs: Sequence[BenchConfig], swept: Iterable[str], records: Iterable[ProcessRecord]) -> Front:
    """``configs``: the whole plan; a run of it without a record was not run."""
    keys = tuple(swept)
    known = {record.run_id: record for record in records}
    runs = tuple(_measured(config, keys, known.get(config.run_id)) for config in configs)
    told = [run for run in runs if run.status == "front"]
    quality = KL if any(run.kl_mean is not None for run in told) else NLL_RATIO if any(run.nll_ratio is not None for run in told) else None
    placed: dict[str, FrontRun] = {}
    for group in Front(runs, quality).groups().values():
        placed |= {run.run_id: run for run in _placed(group, quality)}
    return Front(tuple(placed[run.run_id] for run in runs), quality)


def _measured(config: BenchConfig, keys: tuple[str, ...], record: ProcessRecord | None) -> FrontRun:
    """Where it stands is not known yet: "front" for all that ran."""
    blank = FrontRun(
        config.run_id, config.prompt, config.gen, {key: config.values[key] for key in keys}, "not run", "the sweep did not get to it"
    )
    if record is None:
        return blank
    if record.error is not None:
        return replace(blank, status="failed", reason=record.error)
    row = record.rows[0]
    held, turn = held_ratio(row, (RANGE_DECODE, RANGE_TURN)), held_ratio(row, (RANGE_TURN,))
    lossy, lossless = _mean(row, "h2o_lossy"), _mean(row, "h2o_lossless")
    claimed = None if lossy is None or lossless is None else lossy * lossless
    full, kept = _mean(row, "nll_full"), _mean(row, "nll_kv")
    return replace(
        blank,
        status="front",
        reason=None,
        decode_tps=None if row.decode_tps is None else row.decode_tps.mean,
        total_ratio=claimed if held is None else held,
        ratio_source="held" if held is not None else None if claimed is None else "claimed",
        turn_ratio=turn,
        h2o_lossy=lossy,
        h2o_lossless=lossless,
        kl_mean=_mean(row, "kl_mean"),
        nll_ratio=kept / full if full and kept is not None else None,
    )


def held_ratio(row: BenchRow, moments: tuple[str, ...]) -> float | None:
    """At the worse of the moments that the engine tells."""
    full, alive = _mean(row, RANGE_FULL), [held for name in moments if (held := _mean(row, name))]
    return full / max(alive) if full and alive else None


def _mean(row: BenchRow, column: str) -> float | None:
    measure = row.measures.get(column)
    return None if measure is None else measure.mean


def _placed(group: Sequence[FrontRun], quality: Quality | None) -> list[FrontRun]:
    """Runs of the same lengths, each with where it stands and why."""
    competing = [(run, objectives) for run in group if run.status == "front" and (objectives := run.objectives(quality)) is not None]
    beaten_by = pareto_front([objectives for _, objectives in competing])
    beaten = {run.run_id: competing[at][0].run_id for (run, _), at in zip(competing, beaten_by, strict=True) if at is not None}
    names = {run.run_id for run, _ in competing}
    placed = []
    for run in group:
        if run.run_id in beaten:
            placed.append(replace(run, status="dominated", reason=f"by {beaten[run.run_id]}"))
        elif run.status == "front" and run.run_id not in names:
            placed.append(replace(run, status="not measured", reason=f"no {_lacking(run, quality)}"))
        else:
            placed.append(run)
    return placed


def _lacking(run: FrontRun, quality: Quality | None) -> str:
    figures = {"total ratio": run.total_ratio, "decode speed": run.decode_tps, quality.name if quality else "": run.quality(quality)}
    return ", ".join(name for name, value in figures.items() if name and value is None)
