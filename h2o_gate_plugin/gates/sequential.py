"""The sequential test on log speed ratios: when to look, what is sure at a look, and the verdict. Pure; needs numpy and scipy.special.

Looks are planned before the first pair. Each spends a share of ERROR on either side of the limit, and by the union bound the chance
of a wrong PASS (and that of a wrong FAIL) over all looks is at most ERROR however the looks depend on each other. At a look: the
signed-rank test (Wilcoxon 1945; exact for symmetric noise, one outlier costs it little) with the bounds that invert it (Hodges and
Lehmann 1963); Student's t where the pairs are too few for ranks to reach the look's error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtr, stdtrit

from h2o_gate_plugin.gates.decode_drop import drop_of
from h2o_gate_plugin.gates.looks import LEAST_PAIRS, Look, looks

Logs = npt.NDArray[np.float64]
Test = Literal["t", "signed-rank"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

POWER = 0.95
"""Of the smallest drop that a host can resolve."""
MOST_PAIRS_TOLD = 500


@dataclass(frozen=True)
class Bounds:
    """Estimate and one-sided bounds of the centre of log ratios, ``[...]`` each; infinite where no bound exists."""

    estimate: Logs
    low: Logs
    high: Logs
    test: Test


@dataclass(frozen=True)
class Decision:
    """``drop``, and ``least`` and ``most`` that it is surely not below and not above (None: no bound), each 1 - speed ratio.

    ``look``: index from 1 of the last look taken; 0 when there were too few pairs for the first. ``pairs``: those it judged.
    """

    verdict: Verdict
    look: int
    pairs: int
    drop: float
    least: float | None
    most: float | None
    test: Test | None


def test_of(n_pairs: int, error: float) -> Test:
    """Ranks where their error level leaves room for a pair that contradicts the others: 2 ** n * error >= 2."""
    return "signed-rank" if math.ldexp(error, n_pairs) >= 2 else "t"


def bounds(logs: Logs, error: float) -> Bounds:
    """Of each row of ``logs`` [..., n_pairs >= 2]: the centre lies below ``low``, or above ``high``, with probability <= ``error`` each."""
    n_pairs = logs.shape[-1]
    if test_of(n_pairs, error) == "t":
        mean = logs.mean(axis=-1)
        reach = float(stdtrit(n_pairs - 1, 1 - error)) / math.sqrt(n_pairs) * logs.std(axis=-1, ddof=1)
        return Bounds(mean, mean - reach, mean + reach, "t")
    first, second = np.triu_indices(n_pairs)
    walsh = (logs[..., first] + logs[..., second]) / 2  # [..., n (n + 1) / 2]
    rank, middle = signed_rank_depth(n_pairs, error) - 1, (walsh.shape[-1] - 1) // 2
    last = walsh.shape[-1] - 1
    walsh = np.partition(walsh, sorted({rank, middle, last - middle, last - rank}), axis=-1)
    return Bounds((walsh[..., middle] + walsh[..., last - middle]) / 2, walsh[..., rank], walsh[..., last - rank], "signed-rank")


@cache
def signed_rank_depth(n_pairs: int, error: float) -> int:
    """How many values the signed-rank sum takes in a tail of at most ``error``: the order of the Walsh average that bounds."""
    weights = np.ones(1)
    for rank in range(1, n_pairs + 1):  # the null distribution: each rank counts with a fair coin
        weights = np.convolve(weights, np.concatenate(([0.5], np.zeros(rank - 1), [0.5])))
    return int(np.searchsorted(np.cumsum(weights), error * (1 + 1e-12), side="right"))


def verdicts(logs: Logs, limit: float, plan: Sequence[Look]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.intp]]:
    """For each row of ``logs`` [n_runs, n_pairs]: +1 PASS, -1 FAIL, 0 undecided, and the look (from 1; 0: none) that said so.

    ``limit``: of the drop. The first look with a verdict is the last: later pairs cannot change it.
    """
    edge = math.log1p(-limit) - 1e-12  # a drop that equals the limit passes, whatever its last bit
    verdict = np.zeros(len(logs), np.int8)
    look = np.zeros(len(logs), np.intp)
    for index, at in enumerate(plan, 1):
        if at.pairs > logs.shape[-1]:
            break
        going = np.flatnonzero(verdict == 0)
        found = bounds(logs[going, : at.pairs], at.error)
        verdict[going] = np.where(found.low >= edge, 1, np.where(found.high < edge, -1, 0))
        look[going] = index
    return verdict, look


def decide(logs: Sequence[float], limit: float, plan: Sequence[Look]) -> Decision:
    """The verdict over the log ratios of one prompt length, in the order of their pairs."""
    values = np.asarray(logs, np.float64)
    (verdict,), (look,) = verdicts(values[None], limit, plan)
    if look == 0:
        return Decision("INCONCLUSIVE", 0, len(values), drop_of(float(values.mean())), None, None, None)
    at = plan[look - 1]
    found = bounds(values[: at.pairs], at.error)
    word: Verdict = "PASS" if verdict > 0 else "FAIL" if verdict < 0 else "INCONCLUSIVE"
    least, most = drop_of(float(found.high)), drop_of(float(found.low))
    return Decision(word, int(look), at.pairs, drop_of(float(found.estimate)), least, most, found.test)


def pairs_to_decide(gap: float, reach: float, at: Look, first: int) -> int | None:
    """Pairs after which the bound would stay within ``gap`` (log ratio) of the estimate, if estimate and scatter stayed as they are.

    ``reach``: how far from the estimate the bound is after the look ``at``. None: more than MOST_PAIRS_TOLD.
    """
    scatter = reach * math.sqrt(at.pairs) / float(stdtrit(at.pairs - 1, 1 - at.error))  # sd of a pair that Student's bound would stand for

    def reaches(n_pairs: int) -> bool:
        return float(stdtrit(n_pairs - 1, 1 - looks(first, n_pairs)[-1].error)) * scatter <= gap * math.sqrt(n_pairs)

    return next((n_pairs for n_pairs in range(max(first, LEAST_PAIRS), MOST_PAIRS_TOLD + 1) if reaches(n_pairs)), None)


def resolvable_drop(scatter: float, at: Look) -> float:
    """The distance from the limit, as a drop, that Student's test at the look ``at`` tells with POWER.

    ``scatter``: sd of the log ratio of a pair.
    """
    critical = float(stdtrit(at.pairs - 1, 1 - at.error))
    near, far = 0.0, critical + 10.0
    for _ in range(50):
        middle = (near + far) / 2
        near, far = (middle, far) if float(nctdtr(at.pairs - 1, middle, critical)) > 1 - POWER else (near, middle)
    return drop_of(-far * scatter / math.sqrt(at.pairs))
