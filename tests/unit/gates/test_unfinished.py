"""Gates on a measurement that was cut short: one may fail, none passes."""

from __future__ import annotations

from dataclasses import replace

from h2o_gate_plugin.gates.checks import check
from h2o_gate_plugin.gates.evidence import OfflineEvidence
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.gates.verdict import judge_all, overall_pass

from .rows import a_case, a_row, judged

CUT = "3 of 8 processes were measured before the run was cut short"


def test_a_gate_that_holds_so_far_is_inconclusive_and_fails() -> None:
    case = a_case(a_row())
    assert judged("lossy_pass", case).status == "PASS"
    result = judged("lossy_pass", replace(case, unfinished=CUT))
    assert (result.status, result.value, result.failed) == ("INCONCLUSIVE", 3.2, True)
    assert result.reason == f"holds so far, but {CUT}"


def test_a_gate_that_fails_already_fails() -> None:
    result = judged("lossy_pass", replace(a_case(a_row(h2o_lossy=2.0)), unfinished=CUT))
    assert (result.status, result.value) == ("FAIL", 2.0)


def test_what_is_off_or_not_measured_stays_so_and_says_why() -> None:
    case = replace(a_case(a_row()), unfinished=CUT)
    assert judged("lossy_pass", case, min_lossy=None).status == "OFF"
    missing = judged("lossy_pass", replace(case, rows=()))
    assert (missing.status, missing.reason) == ("NOT_MEASURED", f"{CUT}; no rows of the candidate")


def test_no_option_lets_an_unfinished_decode_measurement_through() -> None:
    rows = tuple(a_row(pair=pair) for pair in (1, 2))
    case = replace(a_case(*rows), unfinished=CUT)
    limits = Limits(decode_inconclusive="pass")
    result = check("decode_pass", case, lambda: OfflineEvidence(1.4, 1.5, "test"), limits)
    assert (result.status, result.failed) == ("INCONCLUSIVE", True)


def test_the_online_gate_alone_may_pass_for_it_reads_the_dump() -> None:
    """The online gate reads the dump, which is whole or not there."""
    results = judge_all(replace(a_case(a_row()), unfinished=CUT), lambda: OfflineEvidence(1.4, 1.5, "test"), Limits())
    assert [result.name for result in results if result.status == "PASS"] == ["lossless_online_pass"]
    assert {result.name for result in results} == set(GATE_NAMES)
    assert overall_pass(results) is False
