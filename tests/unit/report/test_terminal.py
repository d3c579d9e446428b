"""What the terminal tells: short on success, complete on failure, and nothing that a terminal or a log's reader would act on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.report.model import FailedProcess, Report
from h2o_gate_plugin.report.plain_text import encodable, printable, without_commands
from h2o_gate_plugin.report.terminal import Screen, terminal_lines

from .test_report import ALL, LOG, LOSSY, OUT, make_report

LOW = replace(LOSSY, status="FAIL", value=2.93, limit_origin="command line --min-lossy")
SETTINGS = (("--min-lossy", "3", "command line --min-lossy"), ("--max-kl", "0.4", "default"))


def told(report: Report, screen: Screen | None = None) -> list[str]:
    return [line.text for line in terminal_lines(report, OUT.parent, screen or Screen())]


def test_a_pass_takes_one_line_a_case_with_the_tightest_margin_then_the_verdict_and_the_report() -> None:
    tight = replace(ALL[1], value=3.03)
    assert told(make_report(ALL[0], tight, *ALL[2:])) == [
        "m3/joint_full-1             PASS     full, 1 row; 18 gates hold, tightest lossless_online_pass 3.030 >= 3.000 ratio (1% to spare)",
        "overall_pass: true",
        "report: run/report.html (and summary.md, summary.json, h2o_metrics.csv)",
    ]


def test_a_gate_that_allows_nothing_has_no_margin_to_compare() -> None:
    nothing = replace(ALL[1], value=0.0, limit=0.0, direction="<=")
    assert "tightest lossy_pass" in told(make_report(ALL[0], nothing))[0]


def test_a_gate_that_was_let_through_does_not_count_as_one_that_holds() -> None:
    noisy = replace(ALL[2], name="decode_pass", status="INCONCLUSIVE", value=0.2, limit=0.05, direction="<=", tolerated=True)
    line = told(make_report(ALL[0], noisy))[0]
    assert "; 1 gate holds, tightest lossy_pass" in line
    assert line.endswith("; inconclusive and let through: decode_pass")


def test_gates_that_are_off_or_unproven_are_named_in_one_line_each() -> None:
    report = make_report(*ALL[:-2], replace(ALL[-2], status="OFF", value=None), replace(ALL[-1], status="UNPROVEN", value=None))
    other = replace(report.cases[0], id="m3/joint_full-2", gates=ALL)
    lines = told(replace(report, cases=(*report.cases, other)))
    assert f"off: {GATE_NAMES[-2]} (1 of 2 cases)" in lines
    assert f"unproven (--require-evidence makes it fail): {GATE_NAMES[-1]} (1 of 2 cases)" in lines


def test_a_failure_tells_gate_case_measured_limit_margin_origin_row_log_and_the_next_command() -> None:
    lines = told(replace(make_report(LOW, *ALL[1:]), settings=SETTINGS))
    assert lines[0] == "m3/joint_full-1             FAIL     full, 1 row; 1 of 18 gates failed: lossy_pass"
    assert lines[1] == (
        "lossy_pass: m3/joint_full-1: measured 2.930 ratio, limit >= 3.000 ratio, margin -0.070 (command line --min-lossy); "
        f"prompt 512 gen 128; log run/cases/a/logs/{LOG.name}:3"
    )
    assert lines[-1] == "next: pytest -m 'm3 and lossy' --h2o-from=run --min-lossy=3"


def test_the_next_command_says_which_kept_case_is_meant() -> None:
    typed = (*SETTINGS, ("--preset", "my own.yaml", "command line --preset"))
    lines = told(replace(make_report(LOW, *ALL[1:]), settings=typed))
    assert lines[-1] == "next: pytest -m 'm3 and lossy' --h2o-from=run --min-lossy=3 '--preset=my own.yaml'"


def test_a_broken_process_is_what_to_look_at_first() -> None:
    process = FailedProcess("candidate run_0001: exit code 3", "exit code 3", ("llm_bench",), 1.25, ("last words",), LOG)
    unmeasured = replace(LOSSY, status="NOT_MEASURED", value=None, reason="exit code 3")
    assert told(make_report(unmeasured, failures=(process,)))[-1] == f"next: less run/cases/a/logs/{LOG.name}"


def test_v_asks_for_every_gate_and_every_note_of_a_pass_too() -> None:
    lines = told(make_report(*ALL, notes=("low headroom",)), Screen("whole"))
    assert [line.split()[0] for line in lines[2:20]] == list(GATE_NAMES)
    assert "note: low headroom [m3/joint_full-1]" in lines


def test_q_asks_for_the_verdict_alone() -> None:
    assert told(make_report(*ALL), Screen("verdict")) == ["overall_pass: true"]
    part = replace(make_report(ALL[0]), incomplete="only lossy_pass was judged")
    assert told(part, Screen("verdict")) == ["overall_pass: not judged (only lossy_pass was judged)"]


@pytest.mark.parametrize("detail", ["short", "whole"])
def test_a_narrow_terminal_is_never_overrun_but_for_paths_that_stay_whole(detail: str) -> None:
    report = replace(make_report(LOW, *ALL[1:]), settings=SETTINGS)
    lines = told(report, Screen(detail, width=60))  # type: ignore[arg-type]
    assert all(len(line) <= 60 or len(line.split()) == 1 for line in lines)
    assert any(f"{LOG.name}:3" in line for line in lines)


def test_a_terminal_that_knows_ascii_alone_gets_ascii() -> None:
    report = make_report(replace(LOW, reason="2.93 ± 0.01 … π"))
    lines = told(report, Screen(encoding="ascii"))
    assert all(line.isascii() for line in lines)
    assert any("2.93 +/- 0.01 ... ?" in line for line in lines)
    assert encodable("±", "utf-8") == "±"


def test_control_characters_of_an_engine_are_shown_and_not_sent() -> None:
    process = FailedProcess("candidate run_0001: exit code 3", "exit code 3", ("llm_bench",), 1.25, ("\x1b[2Jgone\r\tx",), LOG)
    assert "  | \\x1b[2Jgone\\r\\tx" in told(make_report(LOSSY, failures=(process,)))
    assert printable("a\nb") == "a\\nb"


@pytest.mark.parametrize(
    "text", ["::error::x", "  ::set-output name=a::b", "##[error]x", "said ##[group]x", "a\n::stop-commands::x", "a\r::x"]
)
def test_what_an_engine_prints_cannot_start_a_workflow_command(text: str) -> None:
    safe = without_commands(text)
    assert not any(line.lstrip().startswith("::") for line in safe.splitlines())
    assert "##[" not in safe
    assert without_commands("host::name") == "host::name"
