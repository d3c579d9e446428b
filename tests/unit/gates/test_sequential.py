"""The plan of looks, the tests at a look against scipy's own, and the verdict over looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import nct, t, ttest_1samp, wilcoxon

from h2o_gate_plugin.gates.looks import ERROR, LEAST_PAIRS, Look, looks
from h2o_gate_plugin.gates.sequential import (
    MOST_PAIRS_TOLD,
    POWER,
    bounds,
    decide,
    pairs_to_decide,
    resolvable_drop,
    signed_rank_depth,
    verdicts,
)
from h2o_gate_plugin.gates.sequential import test_of as which_test

LIMIT = 0.05
EDGE = math.log(1 - LIMIT)
PLAN = looks(4, 20)


def sample(n_pairs: int, seed: int = 1, centre: float = 0.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(centre, 0.05, n_pairs)


def test_the_default_plan_looks_at_4_6_9_14_and_20_pairs() -> None:
    assert [look.pairs for look in PLAN] == [4, 6, 9, 14, 20]


def test_a_look_within_a_fifth_before_the_last_is_left_out() -> None:
    assert [look.pairs for look in looks(5, 6)] == [5, 6]
    assert [look.pairs for look in looks(6, 7)] == [7]


@given(first=st.integers(1, 60), most=st.integers(1, 200))
def test_every_plan_spends_the_error_once_and_ends_at_the_most(first: int, most: int) -> None:
    plan = looks(first, most)
    assert (plan == ()) == (max(first, most) < LEAST_PAIRS)
    if plan:
        pairs = [look.pairs for look in plan]
        assert pairs == sorted(set(pairs))
        assert (pairs[0] >= min(LEAST_PAIRS, pairs[-1]), pairs[-1]) == (True, max(first, most))
        assert sum(look.error for look in plan) == pytest.approx(ERROR)


@pytest.mark.parametrize(("n_pairs", "error"), [(4, 0.003), (4, 0.03), (6, 0.003), (6, 0.03), (8, 0.003)])
def test_bounds_of_few_pairs_are_those_of_students_test(n_pairs: int, error: float) -> None:
    logs = sample(n_pairs)
    assert which_test(n_pairs, error) == "t"
    found = bounds(logs, error)
    own = ttest_1samp(logs, 0.0).confidence_interval(1 - 2 * error)
    assert [float(found.estimate), float(found.low), float(found.high)] == pytest.approx([logs.mean(), own.low, own.high])


@pytest.mark.parametrize(("n_pairs", "error"), [(7, 0.02), (9, 0.01), (14, 0.004), (20, 0.0315)])
def test_rank_bounds_are_where_scipys_exact_test_begins_to_reject(n_pairs: int, error: float) -> None:
    logs = sample(n_pairs)
    assert which_test(n_pairs, error) == "signed-rank"
    found = bounds(logs, error)
    step = 1e-9
    for side, bound, inwards in (("greater", float(found.low), 1), ("less", float(found.high), -1)):
        outside = wilcoxon(logs - (bound - inwards * step), alternative=side, method="exact").pvalue
        inside = wilcoxon(logs - (bound + inwards * step), alternative=side, method="exact").pvalue
        assert outside <= error < inside
    assert found.test == "signed-rank"
    walsh = [(logs[i] + logs[j]) / 2 for i in range(n_pairs) for j in range(i, n_pairs)]
    assert float(found.estimate) == pytest.approx(float(np.median(walsh)))


def test_a_tail_that_is_exactly_the_error_is_within_it() -> None:
    """Of 2 ** 7 sign patterns, one has the signed-rank sum 0, one 1, one 2 and two 3."""
    assert [signed_rank_depth(7, patterns / 2**7) for patterns in (1, 2, 2.999, 3, 4.999, 5)] == [1, 2, 2, 3, 3, 4]


def test_many_runs_at_once_are_bounded_like_each_alone() -> None:
    runs = np.stack([sample(14, seed) for seed in range(5)])
    together = bounds(runs, 0.01)
    for index, run in enumerate(runs):
        alone = bounds(run, 0.01)
        assert (together.low[index], together.estimate[index], together.high[index]) == (alone.low, alone.estimate, alone.high)


def test_one_wild_pair_moves_the_rank_bounds_little_and_students_much() -> None:
    calm = sample(20)
    wild = calm.copy()
    wild[0] = -3.0
    assert abs(float(bounds(wild, 0.03).low - bounds(calm, 0.03).low)) < 0.02
    assert float(wild.mean() - calm.mean()) < -0.1


def test_a_drop_that_equals_the_limit_passes_and_one_beyond_it_fails() -> None:
    assert [decide([math.log(1 - drop)] * 4, LIMIT, PLAN).verdict for drop in (0.049, 0.05, 0.051)] == ["PASS", "PASS", "FAIL"]


def test_a_verdict_stays_whatever_later_pairs_say() -> None:
    clear = [0.10, 0.11, 0.12, 0.11]
    early = decide(clear, LIMIT, PLAN)
    late = decide([*clear, *[-0.5] * 16], LIMIT, PLAN)
    assert early == late
    assert (late.verdict, late.look, late.pairs) == ("PASS", 1, 4)


def test_between_two_looks_nothing_is_decided() -> None:
    vague = [0.1, -0.3, 0.2, -0.2]
    assert decide([*vague, *[0.3] * 1], LIMIT, PLAN) == decide(vague, LIMIT, PLAN)
    assert decide(vague, LIMIT, PLAN).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_below_four_pairs_there_is_an_estimate_and_no_verdict(n_pairs: int) -> None:
    found = decide([0.5] * n_pairs, LIMIT, PLAN)
    assert (found.verdict, found.look, found.pairs) == ("INCONCLUSIVE", 0, n_pairs)
    assert (found.least, found.most, found.test) == (None, None, None)
    assert found.drop == pytest.approx(1 - math.exp(0.5))


def test_the_bounds_of_a_decision_are_drops_and_agree_with_its_verdict() -> None:
    for centre, verdict in ((0.2, "PASS"), (-0.4, "FAIL"), (EDGE, "INCONCLUSIVE")):
        found = decide(sample(20, 3, centre).tolist(), LIMIT, PLAN)
        assert found.verdict == verdict
        assert found.least is not None
        assert found.most is not None
        assert found.least < found.drop < found.most
        assert (found.most <= LIMIT, found.least > LIMIT) == (verdict == "PASS", verdict == "FAIL")


def test_verdicts_of_many_runs_are_those_of_each_alone() -> None:
    runs = np.stack([sample(20, seed, centre) for seed, centre in enumerate((-0.2, -0.1, EDGE, 0.0, 0.1, 0.2))])
    verdict, look = verdicts(runs, LIMIT, PLAN)
    words = {1: "PASS", -1: "FAIL", 0: "INCONCLUSIVE"}
    assert [(words[int(sign)], int(at)) for sign, at in zip(verdict, look, strict=True)] == [
        (found.verdict, found.look) for found in (decide(run.tolist(), LIMIT, PLAN) for run in runs)
    ]


def test_the_pairs_that_would_decide_are_the_fewest_whose_bound_stays_within_the_gap() -> None:
    last = PLAN[-1]
    assert pairs_to_decide(0.03, 0.03, last, 4) == last.pairs
    few, many = pairs_to_decide(0.03, 0.031, last, 4), pairs_to_decide(0.02, 0.031, last, 4)
    assert few is not None
    assert many is not None
    assert last.pairs < few < many < MOST_PAIRS_TOLD
    assert many / last.pairs == pytest.approx((0.031 / 0.02) ** 2, rel=0.07)
    assert pairs_to_decide(0.001, 0.031, last, 4) is None
    assert pairs_to_decide(0.0, 0.031, last, 4) is None
    assert pairs_to_decide(0.03, 0.0, last, 4) == LEAST_PAIRS


def student_reach(n_pairs: int, error: float) -> float:
    """Of Student's bound around the mean, in sds of a pair."""
    return float(t.isf(error, n_pairs - 1)) / math.sqrt(n_pairs)


@pytest.mark.parametrize("gap", [0.99 * 0.05 * student_reach(5, looks(4, 5)[-1].error), 0.05, 0.02])
def test_the_pairs_that_would_decide_are_those_of_students_bound_at_the_last_look_of_their_plan(gap: float) -> None:
    at = PLAN[1]
    reach = 0.05 * student_reach(at.pairs, at.error)
    expected = next(n for n in range(4, MOST_PAIRS_TOLD) if 0.05 * student_reach(n, looks(4, n)[-1].error) <= gap)
    assert pairs_to_decide(gap, reach, at, 4) == expected


def test_more_pairs_than_are_told_are_none() -> None:
    at = PLAN[1]
    reach = student_reach(at.pairs, at.error)
    for n_pairs, told in ((MOST_PAIRS_TOLD, MOST_PAIRS_TOLD), (MOST_PAIRS_TOLD + 1, None)):
        assert pairs_to_decide(student_reach(n_pairs, looks(4, n_pairs)[-1].error) * (1 + 1e-9), reach, at, 4) == told


def test_ranks_begin_where_their_error_leaves_room_for_one_pair_against_the_others() -> None:
    assert [which_test(6, error) for error in (2 / 2**6, 1.99 / 2**6)] == ["signed-rank", "t"]


def test_the_smallest_resolvable_drop_is_found_with_the_stated_power() -> None:
    at = Look(20, 0.0315)
    drop = resolvable_drop(0.05, at)
    critical = float(-nct.ppf(at.error, at.pairs - 1, 0.0))
    distance = -math.log(1 - drop) * math.sqrt(at.pairs) / 0.05
    assert 1 - nct.cdf(critical, at.pairs - 1, distance) == pytest.approx(POWER, abs=1e-6)
    assert resolvable_drop(0.02, at) < drop < resolvable_drop(0.05, Look(10, 0.0315))
