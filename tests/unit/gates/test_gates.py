"""The six gates, the decode drop and the verdict: just inside, at, just outside the limit, and not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, Row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GATE_NAMES, GateName, GateResult
from h2o_gate_plugin.gates.verdict import combine, judge_all, overall_pass

GOOD: Mapping[str, float] = {
    "h2o_lossy": 3.2,
    "h2o_lossless_decomp_us": 500.0,
    "h2o_lossless_queue_peak": 1.0,
    "h2o_lossless_fallback": 0.0,
}
COLUMN_OF: Mapping[GateName, str] = {
    "lossy_pass": "h2o_lossy",
    "runtime_decomp_pass": "h2o_lossless_decomp_us",
    "runtime_queue_peak_pass": "h2o_lossless_queue_peak",
    "runtime_fallback_pass": "h2o_lossless_fallback",
}
LIMITS = Limits(max_decomp_us=70_000.0, decode_aggregate="avg")
LABELS: Mapping[GateName, tuple[str, str, str, str]] = {
    "lossy_pass": ("ratio", ">=", "worst row of the best configuration", "h2o_lossy"),
    "lossless_online_pass": ("ratio", ">=", "whole dump", "offline online_sim, dump made by the test"),
    "decode_pass": ("share", "<=", "paired sequential test, worst prompt length", "interleaved baseline of the same batch"),
    "runtime_decomp_pass": ("us", "<=", "worst row, every row > 0", "h2o_lossless_decomp_us"),
    "runtime_queue_peak_pass": ("blocks", "<=", "worst row", "h2o_lossless_queue_peak"),
    "runtime_fallback_pass": ("blocks", "<=", "worst row", "h2o_lossless_fallback"),
    "resident_pass": ("ratio", ">=", "worst row", "kv_range_full_mb / kv_range_resident_mb, kv_range_decode_mb"),
    "coverage_pass": ("share", ">=", "worst row", "lossless_coverage"),
    "scope_pass": ("layers", "<=", "all rows", "kept_tokens, lossless_front_mb, lossless_kept_mb"),
    "kv_exact_pass": ("blocks", "<=", "worst row, two turns", "kv_mismatch_blocks + turns_mismatch_rows"),
    "repeats_pass": ("share", "<=", "widest run", "h2o_keep, h2o_lossy, kv_range_full_mb"),
    "quality_pass": ("share", ">=", "worst prompt length of each criterion", "quality columns"),
    "tokens_pass": ("tokens", "<=", "worst row", "decode_tokens against -n"),
    "prompt_pass": ("rows", "<=", "all rows", "prompt_kind"),
    "async_wait_pass": ("us", "<=", "worst row", "h2o_lossless_async_wait_us"),
    "backpressure_pass": ("blocks", "<=", "worst row", "h2o_lossless_backpressure_skip"),
    "decode_cache_pass": ("reads", ">=", "worst row", "h2o_lossless_decode_cache_miss, h2o_lossless_decode_cache_hit"),
    "log_pass": ("lines", "<=", "all processes", "stdout and log"),
}
"""Unit, direction, aggregation and source, as the report prints them."""


def make_row(
    configuration: str = "a", *, prompt: int = 512, pair: int | None = 1, decode: float | None = 200.0, without: str = "", **values: float
) -> Row:
    measures = {name: Measure(value, 0.0) for name, value in {**GOOD, **values}.items() if name != without}
    text = {name: f"{measure.mean:.4f}" for name, measure in measures.items()}
    speed = None if decode is None else Measure(decode, 1.0)
    bench = BenchRow(f"/logs/{configuration}.log", 3, text, prompt, 128, Measure(2000.0, 1.0), speed, measures)
    return Row(configuration, f"{configuration}-p{prompt}", pair, bench)


def with_value(row: Row, column: str, value: float) -> Row:
    return replace(row, bench=replace(row.bench, measures={**row.bench.measures, column: Measure(value, 0.0)}))


def with_text(row: Row, **cells: str) -> Row:
    return replace(row, bench=replace(row.bench, text={**row.bench.text, **cells}))


def make_evidence(*rows: Row, baseline: tuple[Row, ...] | None = None, failures: tuple[str, ...] = ()) -> CaseEvidence:
    """Without ``baseline``: one of 200 tok/s for each row."""
    same = (make_row(row.configuration, prompt=row.bench.prompt_tokens or 0, pair=row.pair) for row in rows)
    return CaseEvidence("m3/joint_full-1", "full", rows, tuple(same) if baseline is None else baseline, failures)


def offline(ratio: float | None = 1.4, reason: str | None = None) -> OfflineEvidence:
    return OfflineEvidence(ratio, 1.5, "dump made by the test", reason)


def judge(name: GateName, case: CaseEvidence, limits: Limits = LIMITS, found: OfflineEvidence | None = None) -> GateResult:
    return check(name, case, lambda: found or offline(), limits)


@pytest.mark.parametrize(
    ("name", "inside", "at", "outside"),
    [
        ("lossy_pass", 3.001, 3.0, 2.999),
        ("runtime_decomp_pass", 69_999.0, 70_000.0, 70_001.0),
        ("runtime_queue_peak_pass", 7.5, 8.0, 8.5),
        ("runtime_fallback_pass", 0.0, 0.0, 0.5),
    ],
)
def test_a_column_gate_holds_inside_and_at_its_limit_and_fails_outside(name: GateName, inside: float, at: float, outside: float) -> None:
    for value, status in ((inside, "PASS"), (at, "PASS"), (outside, "FAIL")):
        result = judge(name, make_evidence(make_row(), with_value(make_row(prompt=1024), COLUMN_OF[name], value)))
        assert result.status == status
        assert result.margin is not None
        assert (result.margin >= 0) == (status == "PASS")
    assert result.value == outside
    assert result.rows == ("prompt 1024 gen 128 (a.log:3)",)


@pytest.mark.parametrize(("ratio", "status"), [(1.301, "PASS"), (1.3, "PASS"), (1.299, "FAIL")])
def test_the_online_gate_reads_the_online_sim_ratio_only(ratio: float, status: str) -> None:
    result = judge("lossless_online_pass", make_evidence(make_row()), found=offline(ratio))
    assert (result.status, result.value) == (status, ratio)
    assert "online_sim" in result.source


def test_no_other_ratio_stands_in_for_a_missing_online_sim() -> None:
    rows = make_evidence(make_row(h2o_lossless=9.0))
    result = judge("lossless_online_pass", rows, found=offline(None, "no dump was made"))
    assert (result.status, result.value, result.reason) == ("NOT_MEASURED", None, "no dump was made")
    untold = judge("lossless_online_pass", rows, found=offline(None))
    assert (untold.status, untold.reason) == ("NOT_MEASURED", "the evaluator gave no online_sim ratio")


@pytest.mark.parametrize("name", ["lossy_pass", "runtime_decomp_pass", "runtime_queue_peak_pass", "runtime_fallback_pass"])
def test_one_row_without_the_column_leaves_the_gate_not_measured(name: GateName) -> None:
    result = judge(name, make_evidence(make_row(), make_row(prompt=1024, without=COLUMN_OF[name])))
    assert result.status == "NOT_MEASURED"
    assert result.failed
    assert result.value is None
    assert COLUMN_OF[name] in (result.reason or "")
    assert "prompt 1024" in (result.reason or "")


@pytest.mark.parametrize("name", [name for name in GATE_NAMES if name != "lossless_online_pass"])
def test_a_failed_process_or_no_row_at_all_leaves_the_gate_not_measured(name: GateName) -> None:
    crashed = judge(name, make_evidence(make_row(), failures=("candidate run_0001: ended by signal SIGSEGV",)))
    assert crashed.status == "NOT_MEASURED"
    assert "SIGSEGV" in (crashed.reason or "")
    assert judge(name, make_evidence()).status == "NOT_MEASURED"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lossy_pass", "min_lossy"),
        ("lossless_online_pass", "min_online_lossless"),
        ("decode_pass", "max_decode_drop"),
        ("runtime_queue_peak_pass", "max_queue_peak"),
        ("runtime_fallback_pass", "max_fallback"),
    ],
)
def test_a_gate_without_a_limit_is_off_and_says_who_switched_it_off(name: GateName, field: str) -> None:
    limits = replace(LIMITS, origins={field: "command line --x"}, **{field: None})  # type: ignore[arg-type]
    result = judge(name, make_evidence(make_row()), limits)
    assert (result.status, result.enabled, result.failed) == ("OFF", False, False)
    assert "command line --x" in (result.reason or "")


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_gate_says_in_which_unit_and_direction_it_judges_over_what_and_from_which_source(name: GateName) -> None:
    result = judge(name, make_evidence(), Limits())
    assert (result.unit, result.direction, result.aggregation, result.source) == LABELS[name]


@pytest.mark.parametrize(
    ("more", "reason"), [(0, "r1: exit code 3"), (1, "r1: exit code 3 (and 1 more)"), (2, "r1: exit code 3 (and 2 more)")]
)
def test_of_several_failed_processes_the_first_is_told_and_the_others_are_counted(more: int, reason: str) -> None:
    failures = ("r1: exit code 3", *(f"r{number}: exit code 3" for number in range(2, 2 + more)))
    assert judge("lossy_pass", make_evidence(make_row(), failures=failures)).reason == reason


def test_a_gate_says_where_its_limit_came_from_and_a_plain_pass_needs_no_reason() -> None:
    result = judge("lossy_pass", make_evidence(make_row()), replace(LIMITS, origins={"min_lossy": "pack m3"}))
    assert (result.status, result.limit_origin, result.reason) == ("PASS", "pack m3", None)
    assert judge("lossy_pass", make_evidence(make_row())).limit_origin == "default"


def test_evidence_that_was_asked_for_and_is_not_printed_says_who_asked() -> None:
    limits = replace(LIMITS, require_evidence=frozenset({"tokens_pass"}), origins={"require_evidence": "command line --require-evidence"})
    result = judge("tokens_pass", make_evidence(make_row()), limits)
    assert (result.status, result.failed) == ("NOT_MEASURED", True)
    assert result.reason == "the engine prints no decode_tokens; command line --require-evidence asks for it"


def test_a_row_from_which_nothing_was_evicted_is_no_ratio() -> None:
    due = make_row(h2o_evict_us=80.0)
    without_plan = with_text(make_row(prompt=64, without="h2o_lossy"), h2o_lossy="n/a")
    for idle in (without_plan, make_row(prompt=64, h2o_lossy=1.0, h2o_evict_us=0.0)):
        result = judge("lossy_pass", make_evidence(due, idle))
        assert (result.status, result.value, result.limit) == ("NOT_MEASURED", None, 3.0)
        assert result.reason == "H2O never switched on: nothing was evicted at prompt 64 gen 128 (a.log:3)"
        assert judge("lossy_pass", make_evidence(idle, failures=("r2: exit code 3",))).reason == "r2: exit code 3"
    for busy in (make_row(h2o_lossy=1.0, h2o_evict_us=5.0), make_row(h2o_lossy=2.0, h2o_evict_us=0.0), make_row(h2o_lossy=1.0)):
        result = judge("lossy_pass", make_evidence(due, busy))
        assert (result.status, result.value) == ("FAIL", busy.mean("h2o_lossy"))


def test_a_ratio_of_zero_is_the_worst_row_and_equal_ratios_are_no_error() -> None:
    result = judge("lossy_pass", make_evidence(make_row(), make_row(prompt=1024, h2o_lossy=0.0)))
    assert (result.status, result.value) == ("FAIL", 0.0)
    equal = make_evidence(make_row(), make_row(prompt=1024), make_row("b"))
    for limits in (LIMITS, replace(LIMITS, aggregate="best-row")):
        assert judge("lossy_pass", equal, limits).value == 3.2


def test_there_is_a_margin_only_with_a_value_a_limit_and_a_gate_that_is_on() -> None:
    passed = judge("lossy_pass", make_evidence(make_row()))
    assert passed.margin == pytest.approx(0.2)
    for over in ({"value": None}, {"limit": None}, {"status": "OFF"}):
        assert replace(passed, **over).margin is None


def test_a_row_without_lengths_is_named_by_its_line_alone() -> None:
    row = make_row()
    lengths = ((512, 128, "prompt 512 gen 128 (a.log:3)"), (None, 128, "gen 128 (a.log:3)"), (None, None, "a.log:3"))
    for prompt, gen, place in lengths:
        assert replace(row, bench=replace(row.bench, prompt_tokens=prompt, gen_tokens=gen)).place == place


def test_an_offline_gate_that_is_off_asks_for_no_dump() -> None:
    def no_dump() -> OfflineEvidence:
        raise AssertionError("asked for a dump")

    result = check("lossless_online_pass", make_evidence(), no_dump, replace(LIMITS, min_online_lossless=None))
    assert (result.status, result.source) == ("OFF", "offline online_sim")


def test_decompression_is_asked_for_even_without_a_budget() -> None:
    limits = replace(LIMITS, max_decomp_us=None)
    assert judge("runtime_decomp_pass", make_evidence(make_row()), limits).status == "PASS"
    idle = judge("runtime_decomp_pass", make_evidence(make_row(), make_row(prompt=1024, h2o_lossless_decomp_us=0.0)), limits)
    assert (idle.status, idle.value, idle.rows) == ("FAIL", 0.0, ("prompt 1024 gen 128 (a.log:3)",))
    assert "prompt 1024" in (idle.reason or "")
    assert judge("runtime_decomp_pass", make_evidence(make_row(h2o_lossless_decomp_us=0.5)), limits).status == "PASS"


def test_within_a_configuration_the_worst_row_decides_and_across_a_sweep_the_best_configuration() -> None:
    sweep = make_evidence(
        make_row("a", h2o_lossy=3.5),
        make_row("a", prompt=1024, h2o_lossy=2.7),
        make_row("b", h2o_lossy=3.1),
        make_row("b", prompt=1024, h2o_lossy=3.2),
    )
    strict = judge("lossy_pass", sweep)
    assert (strict.status, strict.value) == ("PASS", 3.1)
    literal = judge("lossy_pass", sweep, replace(LIMITS, aggregate="best-row"))
    assert (literal.status, literal.value) == ("PASS", 3.5)
    assert strict.aggregation == "worst row of the best configuration"
    assert literal.aggregation == "best row (--aggregate=best-row)"


def test_one_good_prompt_length_does_not_carry_the_ratio() -> None:
    uneven = make_evidence(make_row(h2o_lossy=2.77), make_row(prompt=1024, h2o_lossy=3.14))
    assert judge("lossy_pass", uneven).status == "FAIL"
    assert judge("lossy_pass", uneven, replace(LIMITS, aggregate="best-row")).status == "PASS"


def test_the_verdict_is_true_only_when_every_gate_was_judged_and_every_enabled_one_holds() -> None:
    gates = judge_all(make_evidence(make_row()), offline, LIMITS)
    assert [gate.name for gate in gates] == list(GATE_NAMES)
    assert overall_pass(gates) is True
    assert overall_pass(gates[:-1]) is None
    assert overall_pass(()) is None
    for index in range(len(gates)):
        for status in ("FAIL", "NOT_MEASURED"):
            broken = (*gates[:index], replace(gates[index], status=status), *gates[index + 1 :])
            assert overall_pass(broken) is False
    assert overall_pass([replace(gates[0], status="OFF"), *gates[1:]]) is True
    assert overall_pass([replace(gate, status="OFF") for gate in gates]) is None


def test_the_run_passes_only_when_it_is_complete_and_every_case_passes() -> None:
    assert combine([True, True], complete=True) is True
    assert combine([True, True], complete=False) is None
    assert combine([True, None], complete=True) is None
    assert combine([True, False], complete=False) is False
    assert combine([], complete=True) is None
