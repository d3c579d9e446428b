"""The error rates of the decode gate, by seeded simulation of whole runs; no clock is involved.

A run fails by FAIL; one that stays INCONCLUSIVE is told as such. Figures for the document: benchmarks/decode_power.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.decode_gate import check_decode_drop, undecided
from h2o_gate_plugin.gates.evidence import CaseEvidence, Row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.looks import looks
from h2o_gate_plugin.gates.sequential import verdicts
from h2o_gate_plugin.options import DEFAULT_MAX_PAIRS, DEFAULT_PAIRS

from .simulated_host import HOSTS, PAIR_5, Host, log_ratios

LIMIT, SEED = 0.05, 20
RUNS, MANY_RUNS = 8_000, 40_000
"""MANY where a rate lies close to what is asked of it."""
PLAN = looks(DEFAULT_PAIRS, DEFAULT_MAX_PAIRS)
EVERY_HOST = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
QUIET_HOSTS = pytest.mark.parametrize(
    "host", [host for host in HOSTS.values() if host.process_sd == PAIR_5 and not host.outliers], ids=lambda host: repr(host)[5:-1]
)


@dataclass(frozen=True)
class Rates:
    """Shares of the simulated runs."""

    passed: float
    failed: float

    @property
    def red(self) -> float:
        return 1 - self.passed


def rates(host: Host, true_drop: float, n_runs: int = RUNS) -> Rates:
    verdict, _ = verdicts(log_ratios(host, true_drop, n_runs, DEFAULT_MAX_PAIRS, SEED), LIMIT, PLAN)
    return Rates(float((verdict == 1).mean()), float((verdict == -1).mean()))


@EVERY_HOST
def test_the_baseline_against_itself_fails_in_at_most_one_run_of_a_hundred(host: Host) -> None:
    assert rates(host, 0.0).failed <= 0.01


@EVERY_HOST
def test_a_true_drop_of_ten_percent_is_red_within_twenty_pairs(host: Host) -> None:
    assert rates(host, 0.10).red >= 0.95


@QUIET_HOSTS
def test_pairs_that_scatter_by_five_percent_name_a_drop_of_ten_percent_a_failure(host: Host) -> None:
    assert rates(host, 0.10).failed >= 0.95


@QUIET_HOSTS
def test_pairs_that_scatter_by_five_percent_pass_a_candidate_that_is_as_fast(host: Host) -> None:
    waves_scatter_too = 0.985  # they come on top of the 5 %
    assert rates(host, 0.0, MANY_RUNS).passed >= (waves_scatter_too if host.wave else 0.99)


@EVERY_HOST
def test_at_the_limit_a_wrong_pass_and_a_wrong_fail_keep_the_error_rate(host: Host) -> None:
    """The noise is symmetric, so both have one rate."""
    at_limit = rates(host, LIMIT, MANY_RUNS)
    assert (at_limit.passed + at_limit.failed) / 2 <= 0.05
    assert abs(at_limit.passed - at_limit.failed) <= 5 * (2 * 0.05 / MANY_RUNS) ** 0.5


def test_every_look_alone_keeps_its_share_of_the_error() -> None:
    at_limit = log_ratios(Host(PAIR_5), LIMIT, RUNS, DEFAULT_MAX_PAIRS, SEED)
    for look in PLAN:
        verdict, _ = verdicts(at_limit, LIMIT, [look])
        slack = 3 * (look.error / RUNS) ** 0.5
        assert (verdict == 1).mean() <= look.error + slack
        assert (verdict == -1).mean() <= look.error + slack


def test_a_candidate_that_is_seven_percent_faster_passes_after_a_few_pairs() -> None:
    verdict, look = verdicts(log_ratios(Host(PAIR_5), -0.07, RUNS, DEFAULT_MAX_PAIRS, SEED), LIMIT, PLAN)
    assert (verdict == 1).mean() >= 0.999
    assert np.mean([PLAN[index - 1].pairs for index in look]) <= 6.0


def row(pair: int, tps: float) -> Row:
    return Row("a", "run_0001", pair, BenchRow("run.log", 3, {}, 512, 128, None, Measure(tps, None), {}))


def run_like_the_gate(ratios: Sequence[float]) -> tuple[str, int]:
    """(verdict, pairs measured) of a run that measures pair by pair for as long as the rule asks for more, and is then judged."""
    limits = replace(Limits(), max_decode_drop=LIMIT, decode_pairs=DEFAULT_PAIRS, decode_max_pairs=DEFAULT_MAX_PAIRS)
    rows: list[Row] = []
    baseline: list[Row] = []
    for pair, ratio in enumerate(ratios, 1):
        baseline.append(row(pair, 200.0))
        rows.append(row(pair, 200.0 * float(np.exp(ratio))))
        if pair >= DEFAULT_PAIRS and not undecided(rows, baseline, 0.0, limits):
            break
    return check_decode_drop(CaseEvidence("a", "full", tuple(rows), tuple(baseline)), limits).status, len(rows)


@pytest.mark.parametrize("true_drop", [-0.05, 0.03, 0.10])
def test_measuring_and_judging_follow_the_simulated_rule(true_drop: float) -> None:
    simulated: npt.NDArray[np.float64] = log_ratios(Host(PAIR_5), true_drop, 40, DEFAULT_MAX_PAIRS, SEED)
    verdict, look = verdicts(simulated, LIMIT, PLAN)
    words = {1: "PASS", -1: "FAIL", 0: "INCONCLUSIVE"}
    expected = [(words[int(sign)], PLAN[index - 1].pairs) for sign, index in zip(verdict, look, strict=True)]
    assert [run_like_the_gate(ratios.tolist()) for ratios in simulated] == expected
