"""One metric over the runs of a history: a series for every case, with the changes of its budget."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from h2o_gate_plugin.bench_columns import COLUMNS
from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.history.run import KeptGate, KeptRow, KeptRun
from h2o_gate_plugin.report.model import figure

SPEEDS = {"prefill_tps": "tok/s", "decode_tps": "tok/s"}


def shown(value: float | None, unit: str, sign: bool = False) -> str:
    """As the report's figures; one that is not 0 never reads as 0."""
    text = figure(value, unit, sign)
    return f"{value:{'+' if sign else ''}.1e}" if value and not any(digit in text for digit in "123456789") else text


@dataclass(frozen=True)
class BudgetChange:
    """From the run before to this one; None = off. ``origin``: what set the new limit."""

    before: float | None
    after: float | None
    origin: str
    unit: str

    @property
    def text(self) -> str:
        old, new = (("off" if limit is None else shown(limit, self.unit)) for limit in (self.before, self.after))
        if old == new:
            old, new = repr(self.before), repr(self.after)
        return f"budget {old} → {new} ({self.origin})"


@dataclass(frozen=True)
class Point:
    """What one run says. ``status`` and ``origin`` are empty for a column, which no gate judges."""

    run: KeptRun
    value: float | None
    limit: float | None = None
    margin: float | None = None
    status: str = ""
    origin: str = ""
    change: BudgetChange | None = None
    remarks: tuple[str, ...] = ()
    """What else differs from the run before: host, engine, model, plan; and that the run is partial."""

    @property
    def failed(self) -> bool:
        return self.status in ("FAIL", "NOT_MEASURED", "INCONCLUSIVE")


@dataclass(frozen=True)
class Series:
    """``points`` from the oldest run to the latest. ``direction`` None: no better side is known."""

    case: str
    name: str
    unit: str
    direction: str | None
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        return f"{self.case}: {self.name}"

    def values(self) -> tuple[float, ...]:
        return tuple(point.value for point in self.points if point.value is not None)


def is_gate(metric: str) -> bool:
    return gate_name(metric) is not None


def gate_name(metric: str) -> str | None:
    """``decode_pass``, or without its ``_pass``."""
    return next((name for name in GATE_NAMES if metric in (name, name.removesuffix("_pass"))), None)


def chosen_runs(runs: Iterable[KeptRun], pack: str | None) -> tuple[KeptRun, ...]:
    """Raises ConfigError when no run is of that pack."""
    runs = tuple(runs)
    if pack is None:
        return runs
    found = tuple(run for run in runs if pack in run.pack.split("+"))
    if not found:
        packs = tuple(dict.fromkeys(word for run in runs for word in run.pack.split("+")))
        raise ConfigError(f"history: --pack: expected a pack of a kept run, got {pack!r}; {nearest(pack, packs)}")
    return found


def gate_series(metric: str, runs: Sequence[KeptRun], case: str | None) -> tuple[Series, ...]:
    """Of a gate, for each case; where it has several criteria one for each of them, whose units differ.

    A run in which the gate was judged and a criterion was not shows as a gap with the gate's status.
    """
    gate = gate_name(metric)
    judged: dict[str, list[tuple[KeptRun, tuple[KeptGate, ...]]]] = defaultdict(list)
    for run in runs:
        for case_id in run.plans:
            kept = tuple(each for each in run.gates if each.gate == gate and each.case == case_id)
            if kept:
                judged[case_id].append((run, kept))
    return tuple(
        _gate_series(case_id, criterion, judged[case_id])
        for case_id in _cases(judged, case)
        for criterion in dict.fromkeys(each.criterion for _, kept in judged[case_id] for each in kept if each.criterion) or (None,)
    )


def _gate_series(case: str, criterion: str | None, judged: Sequence[tuple[KeptRun, tuple[KeptGate, ...]]]) -> Series:
    points: list[Point] = []
    known: KeptGate | None = None
    for run, kept in judged:
        found = next((each for each in kept if each.criterion == criterion), None)
        if found is None:
            points.append(Point(run, None, status=kept[0].status))
            continue
        change = None
        if known is not None and known.limit != found.limit:
            change = BudgetChange(known.limit, found.limit, found.limit_origin, found.unit)
        points.append(Point(run, found.value, found.limit, found.margin, found.status, found.limit_origin, change))
        known = found
    if known is None:
        known = judged[-1][1][0]
    name = known.gate if criterion is None else f"{known.gate}: {criterion}"
    return Series(case, name, known.unit, known.direction, _remarked(case, points))


def column_series(column: str, runs: Sequence[KeptRun], rows: Mapping[str, tuple[KeptRow, ...]], case: str | None) -> tuple[Series, ...]:
    """Of a column of h2o_metrics.csv: the median over the candidate's rows, for each case and lengths (each run of a sweep by itself)."""
    found: dict[str, dict[str, list[tuple[KeptRun, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_plan: dict[str, list[KeptRow]] = defaultdict(list)
        for row in rows.get(run.id, ()):
            if column in row.numbers:
                by_plan[row.plan].append(row)
        for case_id, plan in run.plans.items():
            for name, values in _by_lengths(by_plan.get(plan or "", [])).items():
                found[case_id][name].append((run, statistics.median(row.numbers[column] for row in values)))
    unit = SPEEDS.get(column) or (COLUMNS[column].unit if column in COLUMNS else "")
    return tuple(
        Series(case_id, f"{column}, {name}", unit, None, _remarked(case_id, [Point(run, value) for run, value in measured]))
        for case_id in _cases(found, case)
        for name, measured in found[case_id].items()
    )


def _by_lengths(rows: Iterable[KeptRow]) -> Mapping[str, list[KeptRow]]:
    """``prompt 512 gen 128`` → its rows; with the run id too, where several runs have these lengths."""
    by_lengths: dict[str, list[KeptRow]] = defaultdict(list)
    for row in rows:
        by_lengths[f"prompt {row.prompt_tokens} gen {row.gen_tokens}"].append(row)
    named: dict[str, list[KeptRow]] = defaultdict(list)
    for lengths, alike in by_lengths.items():
        swept = len({row.run_id for row in alike}) > 1
        for row in alike:
            named[f"{lengths}, {row.run_id}" if swept else lengths].append(row)
    return named


def _remarked(case: str, points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(replace(point, remarks=tuple(_remarks(case, before, point.run))) for before, point in _with_previous(points))


def _with_previous(points: Sequence[Point]) -> Iterator[tuple[KeptRun | None, Point]]:
    for index, point in enumerate(points):
        yield (points[index - 1].run if index else None), point


def _remarks(case: str, before: KeptRun | None, run: KeptRun) -> Iterator[str]:
    if before is not None:
        pairs = (
            ("another host", before.origin.host, run.origin.host),
            ("another engine", (before.engine, before.origin.engine_sha256), (run.engine, run.origin.engine_sha256)),
            ("another model config", before.origin.config_sha256, run.origin.config_sha256),
            ("another plan", before.plans.get(case), run.plans.get(case)),
        )
        yield from (word for word, old, new in pairs if old != new)
    if run.incomplete is not None:
        yield "partial run"


def _cases(found: Iterable[str], wanted: str | None) -> tuple[str, ...]:
    """The cases of that name, or that match it as a pattern. Raises ConfigError when there is none."""
    cases = tuple(found)
    chosen = tuple(case for case in cases if wanted is None or fnmatchcase(case, wanted))
    if not chosen and cases:
        raise ConfigError(f"history: --case: expected a case, or a pattern of cases as m3/*, got {wanted!r}; {nearest(str(wanted), cases)}")
    return chosen


def columns_of(rows: Mapping[str, tuple[KeptRow, ...]]) -> tuple[str, ...]:
    """Every column that a kept row shows."""
    return tuple(dict.fromkeys(name for kept in rows.values() for row in kept for name in row.numbers))


def refuse_unknown(metric: str, columns: Sequence[str]) -> None:
    """Raises ConfigError, which names the nearest gate or column."""
    if not is_gate(metric) and metric not in columns:
        legal = (*GATE_NAMES, *columns)
        close = nearest(metric, legal)
        hint = close if close.startswith("did you mean") else "gates are listed in docs/gates.md, columns in a run's h2o_metrics.csv"
        raise ConfigError(f"history: METRIC: expected a gate or a column of h2o_metrics.csv, got {metric!r}; {hint}")


def latest(series: Series, last: int) -> Series:
    """Its last points; changes were found over all of them."""
    return replace(series, points=series.points[-last:])
