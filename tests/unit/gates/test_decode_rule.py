"""The error rates of the decode gate with its rule for more pairs, by seeded simulation; no clock is involved."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.decode_drop import estimate_drop, is_undecided
from h2o_gate_plugin.gates.evidence import Row
from h2o_gate_plugin.options import DEFAULT_MAX_PAIRS, DEFAULT_PAIRS

LIMIT, SCATTER, RUNS = 0.05, 0.07, 600


def row(pair: int, tps: float) -> Row:
    return Row("a", "run_0001", pair, BenchRow(str(Path("run.log")), 3, {}, 512, 128, None, Measure(tps, None), {}))


def share_of_failures(true_drop: float) -> float:
    """Share of RUNS simulated gate runs that end above LIMIT; each pair's log ratio scatters by SCATTER."""
    rng = random.Random(5)
    failures = 0
    for _ in range(RUNS):
        rows: list[Row] = []
        baseline: list[Row] = []
        estimate = None
        while estimate is None or len(rows) < DEFAULT_PAIRS or (is_undecided(estimate, LIMIT) and len(rows) < DEFAULT_MAX_PAIRS):
            baseline.append(row(len(rows) + 1, 200.0))
            rows.append(row(len(rows) + 1, 200.0 * (1 - true_drop) * 2.718281828 ** rng.gauss(0.0, SCATTER)))
            estimate = estimate_drop(rows, baseline)
        assert estimate.worst is not None
        failures += estimate.worst.drop > LIMIT
    return failures / RUNS


@pytest.mark.parametrize(("true_drop", "at_most"), [(-0.05, 0.005), (0.0, 0.05)])
def test_a_candidate_that_costs_nothing_rarely_fails(true_drop: float, at_most: float) -> None:
    assert share_of_failures(true_drop) <= at_most


@pytest.mark.parametrize(("true_drop", "at_least"), [(0.10, 0.95), (0.15, 0.99)])
def test_a_candidate_that_is_too_slow_rarely_passes(true_drop: float, at_least: float) -> None:
    assert share_of_failures(true_drop) >= at_least


def test_at_the_limit_the_rule_leans_to_neither_side() -> None:
    assert share_of_failures(LIMIT) == pytest.approx(0.5, abs=0.08)
