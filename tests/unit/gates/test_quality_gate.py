"""quality_pass: every criterion at its worst prompt length, never a mean; and what its figures need to mean anything."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import OfflineEvidence
from h2o_gate_plugin.gates.limits import Limits

from .rows import NA, Cell, a_case, a_row, judged, required

OUTSIDE: dict[str, dict[str, Cell]] = {
    "KL": {"kl_mean": 0.4001},
    "masked KL": {"kl_masked": 1.01e-4},
    "top-1": {"top1_agree": 0.7499},
    "nll ratio": {"nll_kv": 2.501},
    "recall": {"recall_kv": 0.5999},
    "recall lead": {"recall_random": 0.7001},
}
AT: dict[str, dict[str, Cell]] = {
    "KL": {"kl_mean": 0.4},
    "masked KL": {"kl_masked": 1e-4},
    "top-1": {"top1_agree": 0.75},
    "nll ratio": {"nll_kv": 2.5},
    "recall": {"recall_kv": 0.6},
    "recall lead": {"recall_kv": 0.9, "recall_window": 0.65},
}


@pytest.mark.parametrize("criterion", OUTSIDE)
def test_one_bad_prompt_length_fails_and_the_criterion_is_named(criterion: str) -> None:
    good = a_row(prompt=1024, kl_mean=0.0, recall_kv=1.0)
    assert judged("quality_pass", a_case(a_row(AT[criterion]), good)).status == "PASS"
    result = judged("quality_pass", a_case(a_row(OUTSIDE[criterion]), good))
    assert (result.status, result.source) == ("FAIL", criterion)
    assert result.rows == ("prompt 512 gen 128 (run.log:3)",)
    assert (result.reason or "").startswith(f"{criterion} ")
    assert len(result.criteria) == len(OUTSIDE)


def test_the_value_is_that_of_the_criterion_nearest_to_failing() -> None:
    result = judged("quality_pass", a_case(a_row(top1_agree=0.76)))
    assert (result.source, result.value, result.limit, result.direction) == ("top-1", 0.76, 0.75, ">=")
    assert result.limit_origin == Limits().origin("min_top1")


def test_a_criterion_that_is_off_is_not_looked_at() -> None:
    assert judged("quality_pass", a_case(a_row(kl_mean=3.0)), max_kl=None).status == "PASS"


def test_one_process_of_a_run_shows_the_figures() -> None:
    silent: dict[str, Cell] = dict.fromkeys(("nll_full", "nll_kv", "kl_mean", "kl_masked", "top1_agree", "recall_full", "recall_kv"), NA)
    assert judged("quality_pass", a_case(a_row(), a_row(silent, pair=2))).status == "PASS"
    result = judged("quality_pass", a_case(a_row(), a_row(silent, prompt=1024)))
    assert (result.status, result.failed) == ("NOT_MEASURED", True)
    assert "no figure in any process of run-p1024" in (result.reason or "")


def test_figures_that_are_not_printed_leave_the_gate_unproven_unless_another_one_fails() -> None:
    case = a_case(a_row(recall_random=None))
    assert judged("quality_pass", case).status == "UNPROVEN"
    assert required("quality_pass", case).failed
    assert judged("quality_pass", a_case(a_row(recall_random=None, kl_mean=1.0))).status == "FAIL"


def test_the_criterion_that_decides_brings_its_unit_its_direction_and_the_origin_of_its_limit() -> None:
    limits = Limits(origins={"max_masked_kl": "pack m3", "max_kl": "default of the suite"})
    result = check("quality_pass", a_case(a_row(kl_masked=1.0)), lambda: OfflineEvidence(None, None, "test"), limits)
    assert (result.unit, result.direction, result.limit_origin) == ("nats", "<=", "pack m3")
    assert [criterion.origin for criterion in result.criteria[:2]] == ["default of the suite", "pack m3"]


@pytest.mark.parametrize("control", ["recall_random", "recall_window"])
def test_recall_has_to_lead_either_control(control: str) -> None:
    assert judged("quality_pass", a_case(a_row({control: 0.6999}))).status == "PASS"
    result = judged("quality_pass", a_case(a_row({control: 0.7001})))
    assert (result.status, result.source) == ("FAIL", "recall lead")


def test_a_text_that_is_easy_to_foretell_is_held_to_the_ratio_too() -> None:
    assert judged("quality_pass", a_case(a_row(nll_full=0.4, nll_kv=0.48))).status == "PASS"
    assert judged("quality_pass", a_case(a_row(nll_full=0.4, nll_kv=0.8))).source == "nll ratio"


def test_a_limit_of_zero_has_a_margin() -> None:
    result = judged("quality_pass", a_case(a_row()), max_masked_kl=0.0)
    assert [each.relative_margin for each in result.criteria if each.name == "masked KL"] == [-2e-8]
    assert result.status == "FAIL"


def test_every_criterion_that_fails_is_told() -> None:
    result = judged("quality_pass", a_case(a_row(kl_mean=1.0, top1_agree=0.1)))
    first, second = (result.reason or "").split("; ")
    assert (first.split(" 1.000 ")[0], second.split(" 0.100 ")[0]) == ("KL", "top-1")


def test_figures_that_no_process_shows_are_told_with_those_that_no_engine_prints() -> None:
    result = judged("quality_pass", a_case(a_row(kl_mean=NA, recall_random=None)))
    assert (result.status, result.failed) == ("NOT_MEASURED", True)
    assert result.reason == "kl_mean: no figure in any process of run-p512; the engine prints no recall_random"
    nothing = judged("quality_pass", a_case())
    assert (nothing.status, nothing.limit) == ("NOT_MEASURED", None)


def test_a_full_cache_that_recalls_just_half_is_judged() -> None:
    row = a_row(recall_full=0.5, recall_kv=0.5, recall_random=0.1, recall_window=0.1)
    assert judged("quality_pass", a_case(row)).status == "PASS"


def test_a_full_cache_that_recalls_little_proves_nothing_about_recall() -> None:
    result = judged("quality_pass", a_case(a_row(recall_full=0.4, recall_kv=0.4)))
    assert result.status == "UNPROVEN"
    assert "the full cache itself recalls 0.40" in (result.reason or "")


def test_below_the_trigger_a_divergence_of_zero_is_no_quality() -> None:
    result = judged("quality_pass", a_case(a_row(prompt=128, gen=64, kl_mean=0.0)))
    assert result.status == "NOT_MEASURED"
    assert "H2O never switched on" in (result.reason or "")


def test_where_nothing_is_evicted_on_purpose_there_is_no_control_to_lead() -> None:
    row = a_row(kv={"kv_h2o_enable": False}, recall_random=NA, recall_window=NA, kl_mean=0.0)
    assert judged("quality_pass", a_case(row)).status == "PASS"
