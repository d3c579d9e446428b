"""``decode_pass``: decode with KV features on is not slower than without them by more than the limit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from h2o_gate_plugin.gates.decode_drop import DropEstimate, PromptDrop, estimate_drop
from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.judging import blank, decided, no_rows
from h2o_gate_plugin.gates.limits import DecodeAggregate, Limits
from h2o_gate_plugin.gates.looks import LEAST_PAIRS, Look, looks
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.gates.scope import never_switched_on

if TYPE_CHECKING:
    from h2o_gate_plugin.gates.sequential import Decision

IMPLAUSIBLE_DROP = -0.5
"""A candidate that is more than 50 % faster than its baseline: rather a baseline from a loaded machine, or not the same work."""

_SEVERITY = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}


def _percentile_90(drops: Sequence[float]) -> float:
    """The least drop that nine of ten pairs do not exceed."""
    return sorted(drops)[math.ceil(0.9 * len(drops)) - 1]


_AGGREGATES: Mapping[DecodeAggregate, tuple[str, Callable[[Sequence[float]], float]]] = {
    "avg": ("average", statistics.fmean),
    "median": ("median", statistics.median),
    "p90": ("90th percentile", _percentile_90),
    "worst": ("worst", max),
    "best": ("best", min),
}


def check_decode_drop(evidence: CaseEvidence, limits: Limits) -> GateResult:
    """``paired``: the sequential test over the pairs of each prompt length, all of which must pass; else a plain comparison."""
    fixed = limits.decode_baseline
    tested = limits.decode_aggregate == "paired" and fixed is None
    source = "interleaved baseline of the same batch" if fixed is None else fixed.source
    start = blank("decode_pass", limits.max_decode_drop, "share", "<=", _aggregation(limits), source)
    if limits.max_decode_drop is None:
        return start
    if (gone := no_rows(evidence.rows, evidence.failures)) is not None:
        return replace(start, reason=gone)
    if (off := never_switched_on(evidence.rows)) is not None:
        return replace(start, reason=off)
    estimate = estimate_drop(evidence.rows, evidence.baseline_rows, fixed)
    if estimate.unpaired or not estimate.drops:
        return replace(start, reason="; ".join(estimate.unpaired[:2]) or "no decode speeds")
    best = min(estimate.drops, key=lambda prompt: prompt.drop)
    if best.drop >= IMPLAUSIBLE_DROP:
        return _tested(start, estimate, limits, limits.max_decode_drop) if tested else _compared(start, estimate, limits)
    gain = f"{best.rows[0].place}: {-best.drop:.0%} faster than the {source}"
    if fixed is not None:
        return replace(start, reason=f"{gain}, which is not believed: measure the baseline beside it (--decode-baseline=auto)")
    result = _tested(start, estimate, limits, limits.max_decode_drop) if tested else _compared(start, estimate, limits)
    return replace(result, reason="; ".join(text for text in (result.reason, f"{gain}: check that both do the same work") if text))


def undecided(rows: Sequence[Row], baseline_rows: Sequence[Row], measured_s: float, limits: Limits) -> bool:
    """Whether a run, after ``measured_s`` seconds of its processes, should measure another pair: the rule that the gate judges by.

    Between two looks it should; after a look that gave no verdict too, up to the last look or the time budget.
    """
    if limits.max_decode_drop is None or limits.decode_aggregate != "paired" or measured_s >= limits.decode_time_budget_s:
        return False
    plan = _plan(limits)
    return any(
        len(plan) > 0 and prompt.pairs < plan[-1].pairs and _decide(prompt, limits.max_decode_drop, plan).verdict == "INCONCLUSIVE"
        for prompt in estimate_drop(rows, baseline_rows).drops
    )


def decide_drop(prompt: PromptDrop, limits: Limits) -> Decision | None:
    """The test's decision on one prompt length, as `check_decode_drop` judges it; None where nothing is tested."""
    if limits.max_decode_drop is None or limits.decode_aggregate != "paired" or limits.decode_baseline is not None:
        return None
    return _decide(prompt, limits.max_decode_drop, _plan(limits))


def _plan(limits: Limits) -> tuple[Look, ...]:
    return looks(limits.decode_pairs, limits.decode_max_pairs)


def _decide(prompt: PromptDrop, limit: float, plan: Sequence[Look]) -> Decision:
    from h2o_gate_plugin.gates.sequential import decide  # late: numpy and scipy take a third of a second to import

    return decide(prompt.log_ratios, limit, plan)


def _aggregation(limits: Limits) -> str:
    if limits.decode_baseline is None and limits.decode_aggregate == "paired":
        return "paired sequential test, worst prompt length"
    rule = "avg" if limits.decode_aggregate == "paired" else limits.decode_aggregate
    over = "pairs" if limits.decode_baseline is None else "processes"
    return f"{_AGGREGATES[rule][0]} over {over} ({rule}), worst prompt length, no test"


def _compared(start: GateResult, estimate: DropEstimate, limits: Limits) -> GateResult:
    """The aggregate of the drops against the limit, without a test."""
    rule: DecodeAggregate = "avg" if limits.decode_aggregate == "paired" else limits.decode_aggregate
    aggregate = _AGGREGATES[rule][1]
    value, worst = max(((aggregate(prompt.drops), prompt) for prompt in estimate.drops), key=lambda found: found[0])
    over = "pair" if limits.decode_baseline is None else "process"
    several = f"{worst.pairs} {over}{'' if worst.pairs == 1 else 's' if over == 'pair' else 'es'}"
    spread = f"{several}, drops {min(worst.drops):.3f} to {max(worst.drops):.3f}; no bound: plain comparison"
    return replace(decided(start, value, worst.rows), confidence="; ".join((spread, *_control(worst, limits))))


def _tested(start: GateResult, estimate: DropEstimate, limits: Limits, limit: float) -> GateResult:
    """FAIL when a prompt length fails, else INCONCLUSIVE when one is, else PASS; of several the one with the largest drop is shown."""
    decisions = [(_decide(prompt, limit, _plan(limits)), prompt) for prompt in estimate.drops]
    decision, worst = max(decisions, key=lambda found: (_SEVERITY[found[0].verdict], found[0].drop))
    return replace(
        start,
        status=decision.verdict,
        value=decision.drop,
        rows=tuple(row.place for row in worst.rows[: decision.pairs]),
        reason=_why_inconclusive(decision, worst, limits, limit) if decision.verdict == "INCONCLUSIVE" else None,
        confidence="; ".join((_bounds(decision, limits), *_control(worst, limits))),
        tolerated=limits.decode_inconclusive == "pass",
    )


def _bounds(decision: Decision, limits: Limits) -> str:
    """``drop -0.052, 95 % sure <= 0.013 (6 pairs, look 2 of 5, t)``."""
    least, most = decision.least, decision.most
    if least is None or most is None:
        return f"drop {decision.drop:.3f}, no bound ({_pairs(decision.pairs)}; a test needs {LEAST_PAIRS})"
    sure = {"PASS": f"<= {most:.3f}", "FAIL": f">= {least:.3f}", "INCONCLUSIVE": f">= {least:.3f} and 95 % sure <= {most:.3f}"}
    at = f"{_pairs(decision.pairs)}, look {decision.look} of {len(_plan(limits))}, {decision.test}"
    return f"drop {decision.drop:.3f}, 95 % sure {sure[decision.verdict]} ({at})"


def _control(prompt: PromptDrop, limits: Limits) -> tuple[str, ...]:
    """The A/A control, and what this host could resolve by its scatter; nothing without neighbours."""
    centre, scatter, plan = prompt.control.centre, prompt.control.scatter, _plan(limits)
    if scatter is None:
        return ()
    neighbours = len(prompt.control.baseline) + len(prompt.control.candidate)
    baseline = "" if centre is None else f"{math.expm1(centre) + 0.0:+.1%} "
    told = [f"A/A {baseline}± {scatter:.1%} over {neighbours} neighbours"]
    if plan:
        from h2o_gate_plugin.gates.sequential import resolvable_drop  # late, as above

        told.append(f"smallest resolvable drop {resolvable_drop(scatter, plan[-1]):.3f} at {plan[-1].pairs} pairs")
    return tuple(told)


def _why_inconclusive(decision: Decision, prompt: PromptDrop, limits: Limits, limit: float) -> str:
    if decision.look == 0:
        cure = f"measure --decode-pairs={LEAST_PAIRS} or more, or compare without a test (--decode-aggregate=avg)"
        return f"inconclusive: {_pairs(decision.pairs)}, a test needs {LEAST_PAIRS}; {cure}"
    most = _plan(limits)[-1].pairs
    stopped = "" if prompt.pairs >= most else f", {prompt.pairs} of at most {most} pairs measured"
    return f"inconclusive: the limit lies within the bounds{stopped}; {_pairs_that_decide(decision, limits, limit)}"


def _pairs_that_decide(decision: Decision, limits: Limits, limit: float) -> str:
    from h2o_gate_plugin.gates.sequential import MOST_PAIRS_TOLD, pairs_to_decide  # late, as above

    far = decision.most if decision.drop <= limit else decision.least
    gap, reach = (abs(math.log1p(-decision.drop) - math.log1p(-(end or 0.0))) for end in (limit, far))
    needed = pairs_to_decide(gap, reach, _plan(limits)[decision.look - 1], limits.decode_pairs)
    if needed is None:
        return f"more than {MOST_PAIRS_TOLD} pairs would decide: the drop is too close to the limit"
    return f"about {max(needed, decision.pairs + 1)} pairs would decide (--decode-max-pairs), or fewer on a quieter host"


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"
