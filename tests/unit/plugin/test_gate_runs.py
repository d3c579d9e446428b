"""Whole runs of the acceptance tests against an engine that is not ours: every gate passes, and every gate can fail."""

from __future__ import annotations

import csv
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import SOUND, GateProject

ON = {"kv": "on", "dump": False}
COLUMNS = {
    "lossy_pass": ("h2o_lossy", "2.999 ± 0.000", "2.999"),
    "runtime_queue_peak_pass": ("h2o_lossless_queue_peak", "9.00 ± 0.00", "9"),
    "runtime_fallback_pass": ("h2o_lossless_fallback", "1.00 ± 0.00", "1"),
    "runtime_decomp_pass": ("h2o_lossless_decomp_us", "0.00 ± 0.00", "0.00"),
}


def test_a_good_engine_passes_every_gate_and_leaves_a_whole_report(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime", "--junitxml=junit.xml", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*case / gate*status*value*limit*margin*", "*lossy_pass*PASS*3.200*>= 3.000*+0.200*ratio"])
    result.stdout.fnmatch_lines(["overall_pass: true", "report: out/report.html*"])
    assert project.statuses() == SOUND
    summary = project.summary()
    assert (summary["schema_version"], summary["overall_pass"], summary["pack"]) == (1, True, "runtime")
    assert summary["settings"]["--decode-pairs"] == {"value": "1", "origin": "command line --decode-pairs"}
    assert summary["offline"]["online_sim"]["lossless_ratio"] > summary["offline"]["upper_bound"]["lossless_ratio"] * 0.5
    assert "- overall_pass: true" in (project.path / "out" / "summary.md").read_text(encoding="utf-8")
    with (project.path / "out" / "h2o_metrics.csv").open(encoding="utf-8") as file:
        assert [row["role"] for row in csv.DictReader(file)] == ["baseline", "candidate"]
    properties = {item.get("name"): item.get("value") for item in ET.parse(project.path / "junit.xml").iter("property")}  # noqa: S314 our own file
    assert properties["lossy_pass.status"] == "PASS"
    assert properties["h2o_case"] == "runtime/joint_full-1"
    for name in ("report.html", "tests.html"):
        page = (project.path / "out" / name).read_text(encoding="utf-8")
        assert page.index("overall_pass: true") < page.index("runtime_fallback_pass")
    assert "href='tests.html'" in (project.path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_of_pytest_html_goes_where_it_is_asked_to_with_the_verdict_in_it_and_ours_stays(project: GateProject) -> None:
    assert project.run("acceptance", "-m", "runtime and lossy", "--html=mine.html").ret == 0
    assert "overall_pass" in (project.path / "mine.html").read_text(encoding="utf-8")
    assert "href='../mine.html'" in (project.path / "out" / "report.html").read_text(encoding="utf-8")
    assert not (project.path / "out" / "tests.html").exists()


def test_the_page_of_pytest_html_cannot_take_the_place_of_ours(project: GateProject) -> None:
    refused = project.run("acceptance", "-m", "runtime and lossy", "--html=out/report.html")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "--html: out/report.html: expected another file than the gate report's own page" in refused.stderr.str()


def test_a_gate_run_needs_no_pytest_html(project: GateProject) -> None:
    assert project.run("acceptance", "-m", "runtime and lossy", "-p", "no:html").ret == 0
    assert (project.path / "out" / "summary.json").is_file()
    assert (project.path / "out" / "report.html").is_file()
    assert not (project.path / "out" / "tests.html").exists()


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ("whole", "layers 2 to 3 keep 200 of 640"),
        ("none", "wrote no trace"),
        ("other", "the traced pass ended with other tokens"),
        ("broken", "trace: expected schema 1 of docs/engine.md"),
    ],
)
def test_the_page_draws_what_the_engine_traced_or_says_why_it_cannot(project: GateProject, trace: str, words: str) -> None:
    project.scenario(default={"trace": trace})
    options = [option for option in project.engine_options if option not in ("--preset", "mini.yaml")]
    assert project.start("acceptance", "-m", "runtime and lossy", *options).ret == 0
    assert words in (project.path / "out" / "report.html").read_text(encoding="utf-8")
    again = project.start("acceptance", "-m", "runtime and lossy", "--h2o-from=out", "--h2o-out=again")
    assert again.ret == 0
    assert words in (project.path / "again" / "report.html").read_text(encoding="utf-8")


def test_an_engine_that_prints_its_evidence_has_it_judged(project: GateProject) -> None:
    project.scenario(default={"evidence": True})
    assert project.run("acceptance", "-m", "runtime", "--require-evidence=all").ret == 0
    assert project.statuses() == dict.fromkeys(SOUND, "PASS") | {"coverage_pass": "OFF", "decode_cache_pass": "OFF"}
    case = project.summary()["cases"][0]
    quality = next(gate for gate in case["gates"] if gate["name"] == "quality_pass")
    assert [criterion["name"] for criterion in quality["criteria"]] == ["KL", "masked KL", "top-1", "nll ratio", "recall", "recall lead"]


def test_evidence_that_is_required_and_not_printed_fails_by_name(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime", "--require-evidence=resident_pass,tokens_pass")
    assert result.ret == 1
    assert project.statuses() == SOUND | {"resident_pass": "NOT_MEASURED", "tokens_pass": "NOT_MEASURED"}
    result.stdout.fnmatch_lines(["unproven (--require-evidence makes it fail): scope_pass, kv_exact_pass, quality_pass, prompt_pass"])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--min-lossy=1", "command line --min-lossy: runtime/joint_full-1: min_lossy: expected a limit > 1 so that the gate can fail"),
        ("--max-queue-peak=256", "kv_lossless_max_queue is 256, and the queue grows no deeper"),
        ("--max-missing-tokens=8", "only 8 tokens are asked for"),
    ],
)
def test_a_limit_that_cannot_be_broken_is_refused_before_anything_runs(project: GateProject, option: str, told: str) -> None:
    result = project.run("acceptance", "-m", "runtime", option)
    assert result.ret == 4
    assert told in result.stderr.str()
    assert project.calls() == []


def test_each_process_is_started_once_however_many_gates_read_it(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime")
    assert [(call["kv"], call["dump"]) for call in project.calls()] == [("off", False), ("on", False), ("off", True)]


@pytest.mark.parametrize("gate", COLUMNS)
def test_a_bad_figure_turns_exactly_its_own_gate_red(project: GateProject, gate: str) -> None:
    column, cell, shown = COLUMNS[gate]
    project.scenario(rules=[{"when": ON, "cells": {column: cell}}])
    result = project.run("acceptance", "-m", "runtime")
    assert result.ret == 1
    assert project.statuses() == SOUND | {gate: "FAIL"}
    line = next(line for line in result.outlines if line.startswith(f"{gate}: "))
    assert f"measured {shown}" in line
    for part in ("runtime/joint_full-1", "limit", "prompt 64 gen 8", "log out/cases/mini-1-", "-candidate-1.log"):
        assert part in line
    result.stdout.fnmatch_lines(["overall_pass: false"])


def test_a_slow_candidate_turns_the_decode_gate_red(project: GateProject) -> None:
    project.scenario(rules=[{"when": ON, "decode": "189.00 ± 1.00"}])
    assert project.run("acceptance", "-m", "runtime").ret == 1
    assert project.statuses() == SOUND | {"decode_pass": "FAIL"}


def test_a_dump_that_hardly_compresses_turns_the_online_gate_red(project: GateProject) -> None:
    project.scenario(default={"dump": "noise"})
    assert project.run("acceptance", "-m", "runtime").ret == 1
    assert project.statuses() == SOUND | {"lossless_online_pass": "FAIL"}


@pytest.mark.parametrize(("kind", "words"), [("none", "may not dump"), ("no-meta", "meta files"), ("short", "size_mismatch")])
def test_without_a_dump_that_can_be_read_the_online_gate_is_not_measured_and_says_why(project: GateProject, kind: str, words: str) -> None:
    project.scenario(default={"dump": kind})
    result = project.run("acceptance", "-m", "runtime")
    assert result.ret == 1
    assert project.statuses() == SOUND | {"lossless_online_pass": "NOT_MEASURED"}
    result.stdout.fnmatch_lines([f"lossless_online_pass: *NOT MEASURED*{words}*"])


def test_a_decompression_budget_of_one_microsecond_fails_and_a_fair_one_passes(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime", "--max-decomp-us=1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["runtime_decomp_pass: *measured 500 us, limit <= 1.00 us, margin -499 (command line --max-decomp-us)*"])
    again = project.start("acceptance", "-m", "runtime", "--h2o-from=out", "--max-decomp-us=70000")
    assert (
        again.ret == ExitCode.NOTHING_MEASURED
    )  # the preset of the kept run is not the pack's: nothing of it may be taken for the pack's own case
    again.stdout.fnmatch_lines(["*NOT MEASURED*expected a kept measurement of this case*"])


def test_columns_that_are_not_printed_fail_their_gates_as_not_measured(project: GateProject) -> None:
    project.scenario(default={"without": [column for column, _, _ in COLUMNS.values()]})
    assert project.run("acceptance", "-m", "runtime").ret == 1
    unmeasured = (*COLUMNS, "repeats_pass")
    assert project.statuses() == SOUND | dict.fromkeys(unmeasured, "NOT_MEASURED")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"exit": 3, "stderr": "boom"}, "exit code 3: boom"),
        ({"signal": "SIGSEGV"}, "SIGSEGV"),
        ({"table": "none"}, "got no file although it exited 0"),
        ({"table": "cut"}, "cells"),
        ({"cells": {"h2o_lossy": "nan ± 0.000"}}, "h2o_lossy*nan"),
    ],
)
def test_a_broken_process_leaves_the_gates_not_measured_with_argv_and_reason(
    project: GateProject, answers: dict[str, Any], words: str
) -> None:
    project.scenario(rules=[{"when": ON, **answers}])
    result = project.run("acceptance", "-m", "runtime")
    assert result.ret == ExitCode.ENGINE_BROKEN
    statuses = project.statuses()
    assert statuses.pop("lossless_online_pass") == "PASS"
    assert set(statuses.values()) == {"NOT_MEASURED"}
    result.stdout.fnmatch_lines([f"*joint_full-1: NOT MEASURED; candidate run_0001*{words}*"])
    result.stdout.fnmatch_lines(["failed process of runtime/joint_full-1*", "  argv: *-kv true*"])


def test_a_gate_that_is_off_is_skipped_and_the_rest_decides(project: GateProject) -> None:
    project.scenario(rules=[{"when": ON, "cells": {"h2o_lossless_fallback": "3.00 ± 0.00"}}])
    result = project.run("acceptance", "-m", "runtime", "--max-fallback=-1")
    assert result.ret == 0
    result.assert_outcomes(passed=10, skipped=9)
    assert project.statuses() == SOUND | {"runtime_fallback_pass": "OFF"}
    assert project.summary()["overall_pass"] is True


def test_one_gate_alone_gives_no_overall_verdict_and_measures_only_what_it_needs(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime and lossy")
    assert result.ret == 0
    assert [(call["kv"], call["dump"]) for call in project.calls()] == [("on", False)]
    result.stdout.fnmatch_lines(["overall_pass: not judged (only lossy_pass of runtime/joint_full-1 was judged)"])
    assert project.summary()["overall_pass"] is None


def test_one_gate_alone_that_fails_makes_the_verdict_false(project: GateProject) -> None:
    project.scenario(rules=[{"when": ON, "decode": "100.00 ± 1.00"}])
    assert project.run("acceptance", "-m", "runtime and decode_drop").ret == 1
    assert project.summary()["overall_pass"] is False
    assert not any(call["dump"] for call in project.calls())


def test_two_workers_measure_once_and_write_one_report(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime", "-n2", "-p", "xdist")
    assert result.ret == 0
    assert [(call["kv"], call["dump"]) for call in project.calls()] == [("off", False), ("on", False), ("off", True)]
    assert project.statuses() == SOUND
    result.stdout.fnmatch_lines(["*[[]1/1[]] runtime/joint_full-1: run_0001 prompt 64 baseline 1/1*", "overall_pass: true"])


def test_progress_is_shown_while_a_case_runs_and_not_with_q(project: GateProject) -> None:
    result = project.run("acceptance", "-m", "runtime and lossy")
    result.stdout.fnmatch_lines(["*[[]1/1[]] runtime/joint_full-1: run_0001 prompt 64 candidate 1/1*elapsed*", "*measured in*"])
    (project.path / "out").rename(project.path / "first")
    quiet = project.run("acceptance", "-m", "runtime and lossy", "-q")
    assert not any("elapsed" in line for line in quiet.outlines)


def test_kept_artifacts_are_gated_again_with_other_limits_and_no_engine_is_started(project: GateProject) -> None:
    options = [option for option in project.engine_options if option not in ("--preset", "mini.yaml")]
    project.start("acceptance", "-m", "runtime", *options)
    started = len(project.calls())
    plain = "--decode-aggregate=avg"
    result = project.start("acceptance", "-m", "runtime", "--h2o-from=out", "--h2o-out=again", plain)
    assert result.ret == 0
    assert project.summary("again")["overall_pass"] is True
    stricter = project.start("acceptance", "-m", "runtime", "--h2o-from=out", "--h2o-out=stricter", "--min-lossy=3.5", plain)
    assert stricter.ret == 1
    assert project.statuses("stricter") == SOUND | {"lossy_pass": "FAIL"}
    table = project.start(
        "acceptance", "-m", "runtime", "--h2o-from=out/h2o_metrics.csv", "--dump-dir=out/dump/kv", "--h2o-out=table", plain
    )
    assert table.ret == 0
    assert project.statuses("table") == SOUND | dict.fromkeys(
        ("repeats_pass", "coverage_pass", "decode_cache_pass", "log_pass"), "UNPROVEN"
    )
    assert len(project.calls()) == started


def test_a_case_of_ones_own_preset_and_threads_is_judged_again_with_them_by_the_command_that_the_run_names(project: GateProject) -> None:
    first = project.run("acceptance", "-m", "runtime and lossy", "--threads=3", "--min-lossy=3.3")
    assert first.ret == 1
    (command,) = [line.removeprefix("next: ") for line in first.outlines if line.startswith("next: ")]
    for option in ("--preset=mini.yaml", "--threads=3", "--min-lossy=3.3", "--h2o-from=out"):
        assert option in command
    started = len(project.calls())
    words = shlex.split(command)[1:]
    assert project.start("acceptance", *words, "--h2o-out=again").ret == 1
    assert project.statuses("again") == project.statuses()
    assert project.start("acceptance", *words, "--threads=2", "--h2o-out=other").ret == ExitCode.NOTHING_MEASURED
    assert len(project.calls()) == started


def test_logs_made_elsewhere_are_gated_and_need_a_baseline_from_somewhere(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime")
    logs = project.path / "logs"
    logs.mkdir()
    (log,) = (path for path in (project.path / "out" / "cases").rglob("*.log") if "candidate" in path.name)
    log.rename(logs / "run_0001_p64_g8_k0.3.log")
    without = project.start("acceptance", "-m", "runtime", "--h2o-from=logs", "--dump-dir=out/dump/kv", "--h2o-out=without")
    assert without.ret == 1
    expected = SOUND | dict.fromkeys(("repeats_pass", "coverage_pass", "decode_cache_pass", "log_pass"), "UNPROVEN")
    assert project.statuses("without") == expected | {"decode_pass": "NOT_MEASURED"}
    typed = project.start("acceptance", "-m", "runtime", "--h2o-from=logs", "--preset=mini.yaml", "--h2o-out=typed")
    assert typed.ret == pytest.ExitCode.USAGE_ERROR
    typed.stderr.fnmatch_lines("ERROR: *--h2o-from and *--preset contradict each other: *logs holds results made elsewhere, *")
    fixed = project.start(
        "acceptance",
        "-m",
        "runtime",
        "--h2o-from=logs",
        "--dump-dir=out/dump/kv",
        "--h2o-out=fixed",
        "--decode-baseline=200",
        "--decode-baseline-force=yes",
    )
    assert fixed.ret == 0
    assert project.statuses("fixed") == expected


def test_store_mode_and_another_backend_reach_the_engine(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime and lossy", "--runtime-mode=store", "--backend=opencl", "--threads=3")
    (call,) = project.calls()
    assert call["mode"] == "store"
    assert call["argv"][call["argv"].index("-a") + 1] == "opencl"
    assert call["argv"][call["argv"].index("-t") + 1] == "3"
    assert project.summary()["cases"][0]["runtime_mode"] == "store"


def test_an_ini_value_reaches_the_gate_and_the_report_says_so(project: GateProject) -> None:
    pyproject = project.path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text(encoding="utf-8").rstrip() + "\nh2o_min_lossy = '3.5'\n", encoding="utf-8")
    result = project.run("acceptance", "-m", "runtime and lossy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["lossy_pass: *limit >= 3.500 ratio, margin -0.300 (ini h2o_min_lossy)*"])


def test_the_dump_that_was_given_is_evaluated_and_none_is_made(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime")
    (project.path / "out").rename(project.path / "first")
    before = len(project.calls())
    result = project.run("acceptance", "-m", "runtime and online_lossless", f"--dump-dir={Path('first') / 'dump' / 'kv'}")
    assert result.ret == 0
    assert not any(call["dump"] for call in project.calls()[before:])
    assert "--dump-dir" in project.summary()["cases"][0]["gates"][0]["source"]
