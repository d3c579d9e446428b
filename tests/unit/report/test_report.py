"""The report's texts: figures, failure lines, and that every renderer tells the same and escapes what came from outside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.result import GATE_NAMES, GateResult
from h2o_gate_plugin.gates.verdict import overall_pass
from h2o_gate_plugin.report.html import html
from h2o_gate_plugin.report.markdown import markdown
from h2o_gate_plugin.report.model import CaseReport, FailedProcess, Report, failure_line, failure_lines, figure, gate_line, quality_lines
from h2o_gate_plugin.report.summary_json import summary_object
from h2o_gate_plugin.report.terminal import Screen, terminal_lines

OUT = Path("/out/run")
LOG = OUT / "cases" / "a" / "logs" / "run_0001-candidate-1.log"
LOSSY = GateResult("lossy_pass", "PASS", 3.204, 3.0, "ratio", ">=", "worst row", "h2o_lossy", (f"prompt 512 gen 128 ({LOG.name}:3)",))
ALL = tuple(replace(LOSSY, name=name) for name in GATE_NAMES)
ROW = BenchRow(str(LOG), 3, {}, 512, 128, Measure(2000.0, 5.0), Measure(200.0, 1.0), {"h2o_lossy": Measure(3.204, 0.0)})


def make_report(*gates: GateResult, **changes: object) -> Report:
    case = CaseReport(
        "m3/joint_full-1", "joint_full", 1, "m3", "full", overall_pass(gates), gates, (ROW,), (), (), LOG.parents[1], (str(LOG),)
    )
    case = replace(case, **changes)  # type: ignore[arg-type]
    return Report(
        overall_pass=case.overall_pass,
        incomplete=None,
        pack="m3",
        engine={"name": "embedded"},
        host={"cpu": "a|b", "load": [1.0, 2.0, 3.0]},
        cases=(case,),
        offline={"online_sim": {"lossless_ratio": 1.4}},
        settings=(("--min-lossy", "3", "default"),),
        out_dir=OUT,
        kept_in=OUT,
        started_utc="2026-01-01T00:00:00Z",
        seconds=61.0,
    )


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.2041, "ratio", "3.204"),
        (2.1e-8, "nats", "2.1e-08"),
        (0.0, "share", "0.000"),
        (12345.6, "us", "12,346"),
        (1.0, "us", "1.00"),
        (1.5, "blocks", "1.5"),
        (None, "us", "-"),
    ],
)
def test_a_figure_has_the_digits_of_its_unit(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_a_miss_that_rounds_to_the_limit_does_not_read_as_a_hit() -> None:
    line = gate_line(replace(LOSSY, status="FAIL", value=2.9999))
    assert (line.value, line.limit, line.margin) == ("2.9999", ">= 3.000", "-0.0001")


def test_a_failure_line_names_gate_case_value_limit_origin_row_and_log_with_its_line() -> None:
    failed = replace(LOSSY, status="FAIL", value=2.93, limit_origin="command line --min-lossy")
    assert failure_line("m3/joint_full-1", failed, (f"logs/{LOG.name}",)) == (
        "lossy_pass: m3/joint_full-1: measured 2.930 ratio, limit >= 3.000 ratio, margin -0.070 (command line --min-lossy); "
        f"prompt 512 gen 128; log logs/{LOG.name}:3"
    )


def test_gates_without_evidence_for_one_reason_share_a_line() -> None:
    unmeasured = tuple(replace(gate, status="NOT_MEASURED", value=None, rows=(), reason="exit code 3") for gate in ALL[:2])
    lines = failure_lines(make_report(*unmeasured, replace(ALL[2], status="FAIL", value=1.0)).cases[0], OUT)
    assert len(lines) == 2
    assert all(name in lines[1] for name in ("lossy_pass", "lossless_online_pass", "NOT MEASURED", "exit code 3", "m3/joint_full-1"))


def test_the_seeds_key_value_lines_name_every_gate() -> None:
    lines = quality_lines((*ALL[:4], replace(ALL[4], status="OFF"), replace(ALL[5], status="NOT_MEASURED", value=None)), False)
    assert lines[0] == "- quality_status: FAIL"
    words = ["true"] * 4 + ["off", "false"] + ["not judged"] * (len(GATE_NAMES) - 6)
    assert lines[1:-1] == tuple(f"- {name}: {word}" for name, word in zip(GATE_NAMES, words, strict=True))
    assert lines[-1] == "- overall_pass: false"


def test_a_failed_process_shows_argv_seconds_and_last_lines_once() -> None:
    process = FailedProcess("candidate run_0001: exit code 3", "exit code 3", ("llm bench", "-m", "x"), 1.25, ("last words",), LOG)
    report = make_report(replace(LOSSY, status="NOT_MEASURED", value=None, reason="exit code 3"), failures=(process, process))
    texts = [line.text for line in terminal_lines(report, OUT, Screen())]
    assert texts.count("  | last words") == 1
    assert any("'llm bench' -m x" in text for text in texts)
    assert sum("after 1.2 s" in text for text in texts) == 2
    assert "last words" in markdown(report)


def test_summary_json_has_the_schemas_keys_and_no_number_that_json_does_not_know() -> None:
    summary = summary_object(make_report(*ALL[:5], replace(ALL[5], value=float("nan"))))
    json.dumps(summary, allow_nan=False)
    assert {"schema_version", "overall_pass", "pack", "engine", "host", "cases", "offline"} <= set(summary)
    assert set(summary["offline"]) == {"upper_bound", "online_sim"}
    case = summary["cases"][0]
    assert set(case) == {"id", "case", "run", "runtime_mode", "overall_pass", "rows", "gates", "artifacts"}
    assert set(case["gates"][0]) == {
        "name", "status", "value", "limit", "unit", "direction", "aggregation", "source", "limit_origin", "reason", "confidence", "criteria"
    }  # fmt: skip
    assert case["artifacts"] == {"folder": "cases/a", "logs": [f"cases/a/logs/{LOG.name}"]}


def test_outside_strings_are_escaped_in_html_and_do_not_break_markdown_tables() -> None:
    evil = "<script>alert(1)</script>|x"
    report = make_report(replace(LOSSY, status="FAIL", value=1.0, reason=evil, source=evil), notes=(evil,), id=evil)
    report = replace(report, engine={"name": evil})
    assert "<script>" not in html(report)
    assert "<script>" not in markdown(report)
    cells = [line for line in markdown(report).splitlines() if "lossy_pass" in line and line.startswith("|")]
    assert len(cells) == 1
    assert cells[0].replace("\\|", "").count("|") == 10


def test_html_and_markdown_tell_verdict_gate_value_and_measured_rows() -> None:
    report = make_report(*ALL)
    for text in (html(report), markdown(report)):
        for word in ("overall_pass: true", "m3/joint_full-1", "lossy_pass", "3.204", "+0.204", "200.0 ± 1.0"):
            assert word in text
