"""Step summary and annotations: what they tell, and that nothing from outside can break out of them."""

from __future__ import annotations

from dataclasses import replace

from h2o_gate_plugin.report.github import MOST_CASES, MOST_FAILURES, SHOWN_ANNOTATIONS, annotation_lines, step_summary, workflow_command

from .test_report import ALL, LOG, LOSSY, make_report

LOW = replace(LOSSY, status="FAIL", value=2.93, limit_origin="default")


def test_a_red_gate_is_an_error_with_gate_case_measured_limit_and_log() -> None:
    (error,) = annotation_lines(make_report(LOW, *ALL[1:]))
    assert error == (
        "::error title=lossy_pass of m3/joint_full-1::lossy_pass: m3/joint_full-1: measured 2.930 ratio, limit >= 3.000 ratio, "
        f"margin -0.070 (default); prompt 512 gen 128; log cases/a/logs/{LOG.name}:3"
    )


def test_a_pass_has_no_annotation() -> None:
    assert annotation_lines(make_report(*ALL)) == ()


def test_unproven_gates_and_a_verdict_that_was_not_judged_are_warnings() -> None:
    part = replace(make_report(replace(LOSSY, status="UNPROVEN", value=None)), incomplete="only lossy_pass was judged")
    assert [line.partition("::lossy")[0].partition("::only")[0] for line in annotation_lines(part)] == [
        "::warning title=unproven gates",
        "::warning title=overall_pass not judged",
    ]


def test_more_red_gates_than_are_shown_are_counted_in_the_last_annotation() -> None:
    lines = annotation_lines(make_report(*(replace(gate, status="FAIL", value=1.0) for gate in ALL)))
    assert len(lines) == SHOWN_ANNOTATIONS
    assert lines[-1].startswith(f"::error title={len(ALL) - SHOWN_ANNOTATIONS + 1} more red gates::")


def test_a_workflow_command_is_escaped_as_the_runner_reads_it() -> None:
    line = workflow_command("error", "a:b,c%\n", "100 % of\r\n::set-output x, y: z")
    assert line == "::error title=a%3Ab%2Cc%25%0A::100 %25 of%0D%0A::set-output x, y: z"


def test_the_step_summary_has_the_verdict_a_row_for_each_gate_and_a_column_for_each_case() -> None:
    report = make_report(LOW, *ALL[1:])
    other = replace(report.cases[0], id="m3/joint_store-1", gates=(*ALL[:-1], replace(ALL[-1], status="OFF", value=None)))
    text = step_summary(replace(report, cases=(*report.cases, other)))
    assert text.startswith("## h2o-gate m3: overall_pass false\n")
    assert "| gate | m3/joint_full-1 | m3/joint_store-1 |" in text
    assert "| lossy_pass | **FAIL** 2.930 (>= 3.000 ratio) | PASS 3.204 (>= 3.000 ratio) |" in text
    assert "| log_pass | PASS 3.204 (>= 3.000 ratio) | OFF |" in text
    assert f"log cases/a/logs/{LOG.name}:3 |" in text


def test_what_an_engine_said_breaks_neither_the_table_nor_the_page() -> None:
    evil = "<script>x</script>|\n::error::x\n# heading"
    report = replace(make_report(replace(LOW, reason=evil), id=evil), engine={"name": evil})
    text = step_summary(report)
    assert "<script>" not in text
    assert not any(line.startswith(("::", "# ")) for line in text.splitlines())
    assert all(line.startswith("::error title=") for line in annotation_lines(report))


def test_the_step_summary_of_very_many_cases_stays_below_what_github_takes_and_shows_the_failed_ones() -> None:
    good, bad = make_report(*ALL).cases[0], make_report(*(replace(gate, status="FAIL", value=1.0) for gate in ALL)).cases[0]
    cases = tuple(replace(bad if number >= 900 else good, id=f"many/case_{number}-1") for number in range(1000))
    text = step_summary(replace(make_report(*ALL), cases=cases))
    assert len(text.encode()) < 1 << 20
    assert "many/case_999-1" in text
    assert f"And {1000 - MOST_CASES} more cases: summary.md" in text
    assert f"And {100 * len(ALL) - MOST_FAILURES} more red gates: summary.md" in text
    assert "more" not in step_summary(make_report(LOW, *ALL[1:]))
