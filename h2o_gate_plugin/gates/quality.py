"""``quality_pass``: the text that comes out with compressed KV, against the full cache and against controls of equal bytes.

How the default limits follow from measured controls: docs/gates.md ("Where the quality limits come from").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.judging import blank, no_rows, once_a_run
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import Criterion, Direction, GateResult
from h2o_gate_plugin.gates.scope import never_switched_on

LEAST_RECALL_FULL = 0.5
"""Share of heavy answers that the full cache must find itself, or else the model shows nothing about evicting them."""

_NEEDED = {
    "KL": ("kl_mean",),
    "masked KL": ("kl_masked",),
    "top-1": ("top1_agree",),
    "nll ratio": ("nll_full", "nll_kv"),
    "recall": ("recall_full", "recall_kv"),
    "recall lead": ("recall_full", "recall_kv", "recall_random", "recall_window"),
}


@dataclass(frozen=True)
class _Measure:
    """A criterion before it is measured; ``limit``: the field of Limits."""

    name: str
    limit: str
    unit: str
    direction: Direction
    value: Callable[[Row], float]


_MEASURES = (
    _Measure("KL", "max_kl", "nats", "<=", lambda row: _of(row, "kl_mean")),
    _Measure("masked KL", "max_masked_kl", "nats", "<=", lambda row: _of(row, "kl_masked")),
    _Measure("top-1", "min_top1", "share", ">=", lambda row: _of(row, "top1_agree")),
    _Measure("nll ratio", "max_nll_ratio", "ratio", "<=", lambda row: _of(row, "nll_kv") / max(_of(row, "nll_full"), 1e-9)),
    _Measure("recall", "min_recall", "share", ">=", lambda row: _of(row, "recall_kv") / _of(row, "recall_full")),
    _Measure(
        "recall lead",
        "min_recall_lead",
        "share",
        ">=",
        lambda row: _of(row, "recall_kv") - max(_of(row, "recall_random"), _of(row, "recall_window")),
    ),
)
QUALITY_LIMITS = tuple(measure.limit for measure in _MEASURES)


def check_quality(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """KL, top-1 and nll ratio on plain text; recall of heavy pairs as a share of the full cache's, and its lead over the better control;
    and the divergence from a full cache that attends to the kept tokens alone, which is rounding where eviction does what it says.

    Every run (one configuration at one prompt length) is held against every limit; the criterion nearest to failing gives the value.
    """
    wanted = tuple(measure for measure in _MEASURES if getattr(limits, measure.limit) is not None)
    start = blank("quality_pass", 0.0 if wanted else None, "share", ">=", "worst prompt length of each criterion", "quality columns")
    if not wanted:
        return start
    start = replace(start, limit=None)
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, reason=gone)
    if (off := never_switched_on(evidence.rows)) is not None:
        return replace(start, reason=off)
    criteria: list[Criterion] = []
    gaps: list[tuple[bool, str]] = []
    for measure in wanted:
        rows = tuple(row for row in evidence.rows if _h2o_on(row)) if measure.name == "recall lead" else evidence.rows
        found, gap = _worst(measure, rows, limits) if rows else (None, None)
        criteria += [] if found is None else [found]
        gaps += [] if gap is None else [gap]
    nearest = min(criteria, key=lambda criterion: criterion.relative_margin, default=None)
    if nearest is None:
        result = start
    else:
        result = replace(
            start,
            status="PASS" if nearest.holds else "FAIL",
            value=nearest.value,
            limit=nearest.limit,
            unit=nearest.unit,
            direction=nearest.direction,
            source=nearest.name,
            limit_origin=nearest.origin,
            rows=(nearest.row,),
            criteria=tuple(criteria),
            reason="; ".join(_told(criterion) for criterion in criteria if not criterion.holds) or None,
        )
    if result.status != "FAIL" and gaps:
        missing = any(is_missing for is_missing, _ in gaps)
        told = "; ".join(dict.fromkeys(line for _, line in gaps))
        return replace(result, status="NOT_MEASURED" if missing else "UNPROVEN", reason=told)
    return result


def _worst(measure: _Measure, rows: tuple[Row, ...], limits: Limits) -> tuple[Criterion | None, tuple[bool, str] | None]:
    """The criterion at its worst row, and what is lacking: (evidence that should be there, line)."""
    showing = rows
    for column in _NEEDED[measure.name]:
        if not any(row.prints(column) for row in rows):
            return None, (False, f"the engine prints no {column}")
        showing, silent = once_a_run(showing, column)
        runs = {row.run_id for row in showing}
        silent = tuple(row for row in (*silent, *rows) if row.run_id not in runs)
        if silent:
            return _criterion(measure, showing, limits), (True, f"{column}: no figure in any process of {silent[0].run_id}")
    if "recall_full" in _NEEDED[measure.name]:
        weak = [row for row in showing if _of(row, "recall_full") < LEAST_RECALL_FULL]
        if weak:
            told = f"the full cache itself recalls {_of(weak[0], 'recall_full'):.2f} of the heavy pairs at {weak[0].place}"
            return None, (False, f"{told}, too few to show what eviction loses")
    return _criterion(measure, showing, limits), None


def _criterion(measure: _Measure, rows: Iterable[Row], limits: Limits) -> Criterion | None:
    limit: float = getattr(limits, measure.limit)
    complete = [row for row in rows if all(row.shows(column) for column in _NEEDED[measure.name])]
    found = [
        Criterion(measure.name, measure.value(row), limit, measure.unit, measure.direction, row.place, limits.origin(measure.limit))
        for row in complete
    ]
    return min(found, key=lambda criterion: criterion.relative_margin, default=None)


def _h2o_on(row: Row) -> bool:
    """True too where the config is not known: the controls then tell."""
    return row.kv is None or bool(row.kv["kv_h2o_enable"])


def _told(criterion: Criterion) -> str:
    return f"{criterion.name} {criterion.value:.3f} {criterion.unit}, limit {criterion.direction} {criterion.limit:g} at {criterion.row}"


def _of(row: Row, column: str) -> float:
    return row.mean(column) or 0.0
