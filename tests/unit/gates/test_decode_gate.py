"""decode_pass on rows: pairing, the sequential test, prompt lengths, the A/A control, plain aggregates and fixed baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.baseline import FixedBaseline, fixed_number
from h2o_gate_plugin.gates.decode_drop import Control, estimate_drop
from h2o_gate_plugin.gates.decode_gate import check_decode_drop, undecided
from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.limits import DecodeAggregate, Limits
from h2o_gate_plugin.gates.looks import looks
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.gates.sequential import decide, pairs_to_decide, resolvable_drop

LIMITS = Limits(max_decode_drop=0.05)
BASELINE_TPS = 200.0
STEADY = (0.10, 0.11, 0.12, 0.11)
"""Drops of pairs that leave no doubt."""
VAGUE = (0.30, -0.30, 0.20, -0.10)


def make_row(drop: float, pair: int | None = 1, prompt: int = 512, run_id: str = "") -> Row:
    bench = BenchRow("/logs/run.log", 3, {"backend": "CPU", "threads": "1"}, prompt, 128, None, Measure(BASELINE_TPS * (1 - drop), 1.0), {})
    return Row("a", run_id or f"run-p{prompt}", pair, bench)


def make_rows(drops: Sequence[float], prompt: int = 512) -> tuple[Row, ...]:
    return tuple(make_row(drop, pair, prompt) for pair, drop in enumerate(drops, 1))


def make_evidence(rows: tuple[Row, ...], baseline: tuple[Row, ...] | None = None) -> CaseEvidence:
    """Without ``baseline``: one of BASELINE_TPS for each row."""
    same = tuple(make_row(0.0, row.pair, row.bench.prompt_tokens or 0, row.run_id) for row in rows)
    return CaseEvidence("m3/joint_full-1", "full", rows, same if baseline is None else baseline)


def judge(*drops: float, limits: Limits = LIMITS) -> GateResult:
    return check_decode_drop(make_evidence(make_rows(drops)), limits)


def go_on(drops: Sequence[float], limits: Limits = LIMITS, measured_s: float = 10.0) -> bool:
    evidence = make_evidence(make_rows(drops))
    return undecided(evidence.rows, evidence.baseline_rows, measured_s, limits)


def test_pairs_that_agree_decide_at_the_first_look_and_the_report_says_how_sure() -> None:
    slow, fast = judge(*STEADY), judge(*(-drop for drop in STEADY))
    assert (slow.status, fast.status) == ("FAIL", "PASS")
    assert slow.confidence is not None
    assert fast.confidence is not None
    assert "drop 0.110, 95 % sure >= 0.0" in slow.confidence
    assert "drop -0.110, 95 % sure <= -0.0" in fast.confidence
    assert "(4 pairs, look 1 of 5, t)" in fast.confidence
    assert (slow.reason, fast.reason) == (None, None)
    assert (fast.aggregation, fast.source) == ("paired sequential test, worst prompt length", "interleaved baseline of the same batch")


def test_pairs_that_contradict_each_other_are_inconclusive_which_fails_unless_it_is_tolerated() -> None:
    result = judge(*VAGUE)
    assert (result.status, result.failed) == ("INCONCLUSIVE", True)
    assert result.reason is not None
    assert result.reason.startswith("inconclusive: the limit lies within the bounds, 4 of at most 20 pairs measured; ")
    assert "pairs would decide" in result.reason
    tolerated = judge(*VAGUE, limits=replace(LIMITS, decode_inconclusive="pass"))
    assert (tolerated.status, tolerated.failed) == ("INCONCLUSIVE", False)


def test_the_last_look_without_a_verdict_tells_how_many_pairs_would_decide() -> None:
    result = judge(*[0.08 + 0.1 * (-1) ** pair for pair in range(20)])
    assert result.status == "INCONCLUSIVE"
    assert result.reason is not None
    assert result.reason.startswith("inconclusive: the limit lies within the bounds; about ")
    hopeless = judge(*[0.05 + 0.1 * (-1) ** pair for pair in range(20)])
    assert "more than 500 pairs would decide" in (hopeless.reason or "")


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_too_few_pairs_for_a_test_are_inconclusive_and_the_cure_is_named(n_pairs: int) -> None:
    result = judge(*STEADY[:n_pairs])
    assert result.status == "INCONCLUSIVE"
    several = "1 pair" if n_pairs == 1 else f"{n_pairs} pairs"
    assert (result.reason or "").startswith(f"inconclusive: {several}, a test needs 4; measure --decode-pairs=4 or more, ")
    assert "--decode-aggregate=avg" in (result.reason or "")
    assert f"no bound ({several}; a test needs 4)" in (result.confidence or "")


def test_the_worst_prompt_length_decides_and_fail_beats_inconclusive_beats_pass() -> None:
    good, vague, bad = make_rows([-0.1, -0.11, -0.12, -0.11]), make_rows(VAGUE, 1024), make_rows(STEADY, 2048)
    for rows, status, prompt in ((good + vague, "INCONCLUSIVE", 1024), (good + vague + bad, "FAIL", 2048), (bad + good, "FAIL", 2048)):
        result = check_decode_drop(make_evidence(rows), LIMITS)
        assert result.status == status
        assert all(f"prompt {prompt} " in place for place in result.rows)
    assert check_decode_drop(make_evidence(good), LIMITS).status == "PASS"


def test_of_several_lengths_that_fail_the_one_with_the_largest_judged_drop_is_shown() -> None:
    later_fast, slower_later = make_rows([*STEADY, -0.4, -0.4]), make_rows([drop - 0.02 for drop in STEADY], 1024)
    for rows in (later_fast + slower_later, slower_later + later_fast):
        result = check_decode_drop(make_evidence(rows), LIMITS)
        assert result.value == pytest.approx(0.11, abs=1e-3)
        assert all("prompt 512 " in place for place in result.rows)


@pytest.mark.parametrize("centre", [0.0, 0.09])
def test_the_pairs_that_would_decide_follow_from_the_bound_on_the_limits_side(centre: float) -> None:
    drops = [centre + 0.1 * (-1) ** pair + 0.004 * pair * (-1) ** (pair // 3) for pair in range(20)]
    result = judge(*drops)
    assert result.status == "INCONCLUSIVE"
    found = decide([math.log(1 - drop) for drop in drops], 0.05, looks(4, 20))
    far = found.most if found.drop <= 0.05 else found.least
    assert far is not None
    gap, reach = (abs(math.log((1 - found.drop) / (1 - end))) for end in (0.05, far))
    needed = pairs_to_decide(gap, reach, looks(4, 20)[found.look - 1], 4)
    assert needed is not None
    assert f"about {max(needed, 21)} pairs would decide" in (result.reason or "")


def test_at_least_one_more_pair_is_asked_for_and_a_limit_of_no_drop_at_all_can_be_undecided() -> None:
    nearly = judge(0.02, -0.02, 0.02, 0.0, limits=replace(LIMITS, decode_max_pairs=20))
    assert nearly.status == "INCONCLUSIVE"
    assert "about 5 pairs would decide" in (nearly.reason or "")
    assert "would decide" in (judge(*VAGUE, limits=replace(LIMITS, max_decode_drop=0.0)).reason or "")


def test_runs_of_one_prompt_length_are_tested_apart() -> None:
    runs = {"a": STEADY[:2], "b": STEADY[2:]}
    rows = tuple(make_row(drop, pair, run_id=run) for run, drops in runs.items() for pair, drop in enumerate(drops, 1))
    assert [prompt.pairs for prompt in estimate_drop(rows, make_evidence(rows).baseline_rows).drops] == [2, 2]


def test_kept_pairs_are_judged_in_the_order_of_their_numbers_and_later_ones_change_no_verdict() -> None:
    rows = make_rows([*STEADY, -0.4, -0.4])
    kept, shuffled = (check_decode_drop(make_evidence(found), LIMITS) for found in (rows, rows[::-1]))
    assert (kept.status, len(kept.rows)) == ("FAIL", 4)
    assert kept == shuffled


def test_a_run_goes_on_between_looks_and_while_undecided_up_to_the_last_look_or_the_time_budget() -> None:
    assert not go_on(STEADY)
    assert go_on(VAGUE)
    assert go_on((*VAGUE, 0.3))
    assert not go_on(VAGUE * 5)
    assert not go_on(VAGUE, measured_s=LIMITS.decode_time_budget_s)
    assert not go_on(VAGUE, replace(LIMITS, decode_max_pairs=4))
    assert not go_on(VAGUE, replace(LIMITS, decode_aggregate="avg"))
    assert not go_on(VAGUE, replace(LIMITS, max_decode_drop=None))
    assert go_on(VAGUE[:2], replace(LIMITS, decode_pairs=2))
    assert go_on(VAGUE[:2], replace(LIMITS, decode_max_pairs=4))
    assert not go_on(VAGUE[:2], replace(LIMITS, decode_pairs=1, decode_max_pairs=2))


def test_the_control_compares_neighbours_of_one_role_and_a_drift_cancels() -> None:
    """ABBA: B1 C1 C2 B2 B3 C3 C4 B4 B5 C5, each process 1 % slower than the one before."""
    speed = [200.0 * math.exp(-0.01 * process) for process in range(10)]
    order = [("B", 1), ("C", 1), ("C", 2), ("B", 2), ("B", 3), ("C", 3), ("C", 4), ("B", 4), ("B", 5), ("C", 5)]
    rows = {key: make_row(1 - tps / BASELINE_TPS, key[1]) for key, tps in zip(order, speed, strict=True)}
    candidates = tuple(row for (role, _), row in rows.items() if role == "C")
    baseline = tuple(row for (role, _), row in rows.items() if role == "B")
    control = estimate_drop(candidates, baseline).drops[0].control
    assert [len(control.baseline), len(control.candidate)] == [2, 2]
    assert [abs(ratio) for ratio in (*control.baseline, *control.candidate)] == pytest.approx([0.01] * 4)
    assert control.centre == pytest.approx(0.0, abs=1e-12)
    assert control.scatter == pytest.approx(0.01)
    assert control.baseline == pytest.approx((0.01, -0.01))
    assert control.candidate == pytest.approx((-0.01, 0.01))
    gap = tuple(row for row in candidates if row.pair != 3)
    assert [len(ratios) for ratios in vars(estimate_drop(gap, baseline).drops[0].control).values()] == [1, 1]


def test_rows_without_a_pair_and_rows_beside_a_fixed_baseline_have_no_neighbours() -> None:
    loose = (make_row(0.1, None), make_row(0.1, None))
    rows = make_rows(STEADY)
    fixed = estimate_drop(rows, make_evidence(rows).baseline_rows, fixed_number(200.0)).drops[0]
    for prompt in (estimate_drop(loose, (make_row(0.0, None),)).drops[0], fixed):
        assert prompt.control == Control()


def test_processes_of_several_runs_are_compared_with_a_fixed_baseline_together() -> None:
    rows = tuple(make_row(drop, 1, run_id=run) for run, drop in (("a", 0.1), ("b", 0.2)))
    assert [prompt.pairs for prompt in estimate_drop(rows, (), fixed_number(200.0)).drops] == [2]


def test_a_slow_speed_is_a_speed_and_none_is_not() -> None:
    crawl = make_row(1 - 0.5 / BASELINE_TPS)
    assert estimate_drop((crawl,), (make_row(0.0),)).drops[0].drop == pytest.approx(0.9975)
    still = estimate_drop((make_row(1.0),), (make_row(0.0),))
    assert (still.drops, still.unpaired) == ((), ("prompt 512 gen 128 (run.log:3): no decode speed",))


def test_an_outlier_among_the_neighbours_leaves_their_scatter_alone() -> None:
    assert Control((0.01, -0.02), (0.01, -0.01, 3.0)).scatter == pytest.approx(0.0173, abs=1e-4)
    assert Control((0.01,), ()).scatter is None
    assert Control().centre is None


def test_the_control_and_the_smallest_resolvable_drop_are_told() -> None:
    rows = make_rows(STEADY)
    baseline = tuple(make_row(drop, pair) for pair, drop in enumerate((0.0, 0.0, 0.02, 0.0), 1))
    confidence = check_decode_drop(make_evidence(rows, baseline), LIMITS).confidence
    assert confidence is not None
    resolvable = resolvable_drop(estimate_drop(rows, baseline).drops[0].control.scatter or 0.0, looks(4, 20)[-1])
    assert confidence.endswith(f"; A/A +2.0% ± 1.5% over 3 neighbours; smallest resolvable drop {resolvable:.3f} at 20 pairs")
    without_rest = check_decode_drop(make_evidence(rows[:3], baseline[:3]), replace(LIMITS, decode_pairs=1, decode_max_pairs=3)).confidence
    assert (without_rest or "").endswith("; A/A +2.0% ± 1.7% over 2 neighbours")
    assert "; A/A +0.0% ± " in (judge(*STEADY).confidence or "")
    apart = tuple(make_row(0.1, pair) for pair in (1, 2, 5, 6))
    assert "; A/A ± 0.0% over 2 neighbours" in (check_decode_drop(make_evidence(apart), LIMITS).confidence or "")
    several = replace(LIMITS, decode_aggregate="avg")
    assert "A/A" not in (judge(0.1, limits=several).confidence or "")
    assert "plain comparison; A/A " in (judge(*STEADY, limits=several).confidence or "")


def test_the_drop_of_a_prompt_length_is_the_geometric_mean_over_its_pairs() -> None:
    rows = (*make_rows([0.1, -0.1]), make_row(0.25, 1, 1024))
    short, long = estimate_drop(rows, make_evidence(rows).baseline_rows).drops
    assert short.drop == pytest.approx(1 - math.sqrt(0.9 * 1.1))
    assert short.drops == pytest.approx((0.1, -0.1))
    assert long.drop == pytest.approx(0.25)


@given(st.lists(st.floats(-5, 0.99), min_size=1, max_size=6))
@settings(max_examples=50)
def test_the_drop_lies_between_the_drops_of_its_pairs(drops: list[float]) -> None:
    rows = make_rows(drops)
    (prompt,) = estimate_drop(rows, make_evidence(rows).baseline_rows).drops
    slack = 1e-9 * max(1.0, *map(abs, drops))
    assert min(drops) - slack <= prompt.drop <= max(drops) + slack


@pytest.mark.parametrize(
    ("aggregate", "value", "name"),
    [
        ("avg", 0.06, "average over pairs (avg)"),
        ("median", 0.05, "median over pairs (median)"),
        ("p90", 0.12, "90th percentile over pairs (p90)"),
        ("worst", 0.12, "worst over pairs (worst)"),
        ("best", 0.02, "best over pairs (best)"),
    ],
)
def test_every_aggregate_is_available_and_named_and_needs_no_test(aggregate: DecodeAggregate, value: float, name: str) -> None:
    limits = replace(LIMITS, decode_aggregate=aggregate)
    result = judge(0.02, 0.05, 0.12, 0.03, 0.08, limits=limits)
    assert result.value == pytest.approx(value)
    assert result.status == ("PASS" if value <= 0.05 else "FAIL")
    assert result.aggregation == f"{name}, worst prompt length, no test"
    assert "no bound" in (result.confidence or "")


def test_a_plain_comparison_tells_how_many_it_compared_and_their_range() -> None:
    plain = replace(LIMITS, decode_aggregate="avg")
    fixed = replace(LIMITS, decode_baseline=fixed_number(200.0))
    for limits, drops, told in (
        (plain, (0.1,), "1 pair, drops 0.100 to 0.100"),
        (plain, (0.1, 0.12), "2 pairs, drops 0.100 to 0.120"),
        (fixed, (0.1,), "1 process, drops 0.100 to 0.100"),
        (fixed, (0.1, 0.12), "2 processes, drops 0.100 to 0.120"),
    ):
        result = judge(*drops, limits=limits)
        assert (result.confidence or "").startswith(f"{told}; no bound: plain comparison")
        assert len(result.rows) == len(drops)


def test_a_plain_comparison_shows_the_worst_length_and_equal_ones_are_no_error() -> None:
    plain = replace(LIMITS, decode_aggregate="avg")
    for drops in ((0.02, 0.2), (0.2, 0.02)):
        rows = make_rows(drops[:1]) + make_rows(drops[1:], 1024)
        result = check_decode_drop(make_evidence(rows), plain)
        assert result.status == "FAIL"
        assert result.value == pytest.approx(0.2)
    equal = make_rows([0.02]) + make_rows([0.02], 1024)
    assert check_decode_drop(make_evidence(equal), plain).value == pytest.approx(0.02)


def test_one_bad_pair_in_twenty_is_beyond_the_90th_percentile() -> None:
    assert judge(*[0.0] * 19, 0.4, limits=replace(LIMITS, decode_aggregate="p90")).value == pytest.approx(0.0)


def test_a_lucky_row_decides_only_where_best_was_asked_for() -> None:
    drops = (-0.1, 0.2, 0.2, 0.2)
    for aggregate in ("paired", "avg", "median", "p90", "worst"):
        assert judge(*drops, limits=replace(LIMITS, decode_aggregate=aggregate)).status != "PASS"
    assert judge(*drops, limits=replace(LIMITS, decode_aggregate="best")).status == "PASS"
    assert Limits().decode_aggregate == "paired"


@pytest.mark.parametrize(("drop", "status"), [(0.049, "PASS"), (0.05, "PASS"), (0.051, "FAIL")])
@pytest.mark.parametrize("aggregate", ["paired", "avg"])
def test_the_gate_holds_inside_and_at_its_limit_and_fails_outside(drop: float, status: str, aggregate: DecodeAggregate) -> None:
    limits = replace(LIMITS, max_decode_drop=1 - 190.0 / 200.0, decode_aggregate=aggregate)
    result = judge(*[drop] * 4, limits=limits)
    assert result.status == status
    assert result.value == pytest.approx(drop)


def test_a_candidate_without_its_own_baseline_row_leaves_decode_not_measured() -> None:
    result = check_decode_drop(make_evidence(make_rows([0.0]), baseline=(make_row(0.0, 2),)), LIMITS)
    assert (result.status, result.value) == ("NOT_MEASURED", None)
    assert "no baseline row of the same pair" in (result.reason or "")
    partly = check_decode_drop(make_evidence(make_rows(STEADY), baseline=make_rows([0.0])), LIMITS)
    assert (partly.status, (partly.reason or "").count("no baseline row of the same pair")) == ("NOT_MEASURED", 2)
    assert "; prompt 512" in (partly.reason or "")
    silent = replace(make_row(0.0), bench=replace(make_row(0.0).bench, decode_tps=None))
    assert check_decode_drop(make_evidence((silent,)), LIMITS).status == "NOT_MEASURED"


def test_where_nothing_was_evicted_no_speed_is_compared() -> None:
    row = make_row(0.0)
    idle = replace(row, bench=replace(row.bench, text={**row.bench.text, "h2o_lossy": "n/a"}))
    result = check_decode_drop(make_evidence((idle,)), LIMITS)
    assert (result.status, result.value, result.limit) == ("NOT_MEASURED", None, 0.05)
    assert result.reason == "H2O never switched on: nothing was evicted at prompt 512 gen 128 (run.log:3)"


def test_a_fixed_number_needs_no_baseline_rows_and_is_compared_without_a_test() -> None:
    limits = replace(LIMITS, decode_baseline=fixed_number(200.0))
    result = check_decode_drop(make_evidence(make_rows([0.25]), ()), limits)
    assert result.status == "FAIL"
    assert result.value == pytest.approx(0.25)
    assert result.source == "fixed baseline 200 tok/s"
    assert result.aggregation == "average over processes (avg), worst prompt length, no test"


def test_speeds_of_kept_runs_are_compared_at_equal_lengths_backend_and_threads_only() -> None:
    kept = FixedBaseline("baseline of the kept run old", tps={(512, 128, "CPU", "1"): 200.0})
    limits = replace(LIMITS, decode_baseline=kept)
    assert check_decode_drop(make_evidence(make_rows([0.02]), ()), limits).status == "PASS"
    other = check_decode_drop(make_evidence(make_rows([0.02], 1024), ()), limits)
    assert other.status == "NOT_MEASURED"
    assert "no row of its lengths, backend and threads in the baseline of the kept run old" in (other.reason or "")


def test_an_implausible_gain_is_not_believed_of_a_fixed_baseline_and_flagged_of_an_interleaved_one() -> None:
    fixed = check_decode_drop(make_evidence(make_rows([-0.82]), ()), replace(LIMITS, decode_baseline=fixed_number(200.0)))
    assert (fixed.status, fixed.value) == ("NOT_MEASURED", None)
    assert "82% faster than the fixed baseline 200 tok/s, which is not believed" in (fixed.reason or "")
    beside = judge(*[-0.82] * 4)
    assert beside.status == "PASS"
    gain = "prompt 512 gen 128 (run.log:3): 82% faster than the interleaved baseline of the same batch: check that both do the same work"
    assert beside.reason == gain
    compared = judge(*[-0.82] * 4, limits=replace(LIMITS, decode_aggregate="avg"))
    assert (compared.status, compared.reason) == ("PASS", gain)
    assert "no bound: plain comparison" in (compared.confidence or "")
    both = make_rows([-0.82] * 4) + make_rows(VAGUE, 1024)
    assert (check_decode_drop(make_evidence(both), LIMITS).reason or "").endswith(f"too close to the limit; {gain}")
    edge = check_decode_drop(make_evidence(make_rows([-0.5]), ()), replace(LIMITS, decode_baseline=fixed_number(200.0)))
    assert edge.status == "PASS"
    plausible = check_decode_drop(make_evidence(make_rows([-0.49]), ()), replace(LIMITS, decode_baseline=fixed_number(200.0)))
    assert plausible.status == "PASS"
