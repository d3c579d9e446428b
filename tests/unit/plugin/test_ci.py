"""A run as GitHub Actions and a junit reader see it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import GateProject

ON = {"kv": "on", "dump": False}


@pytest.fixture
def in_actions(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> GateProject:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    (project.path / "step.md").write_text("# from the step before\n", encoding="utf-8")
    return project


def test_in_github_actions_a_red_gate_is_annotated_and_the_summary_is_appended(in_actions: GateProject) -> None:
    in_actions.scenario(rules=[{"when": ON, "cells": {"h2o_lossy": "2.000 ± 0.000"}}])
    result = in_actions.run("acceptance", "-m", "runtime and lossy", "-q")
    assert result.ret == ExitCode.GATE_FAILED
    result.stdout.fnmatch_lines(["::error title=lossy_pass of runtime/joint_full-1::lossy_pass: *measured 2.000 ratio*log cases/*"])
    text = (in_actions.path / "step.md").read_text(encoding="utf-8")
    assert text.startswith("# from the step before\n## h2o-gate runtime: overall_pass false")
    assert "| lossy_pass | **FAIL** 2.000 (>= 3.000 ratio) |" in text


def test_what_an_engine_prints_never_starts_a_line_as_a_workflow_command(in_actions: GateProject) -> None:
    said = "boom\n::error::from the engine\n  ::add-mask::x\r::warning::y\n##[error]z"
    in_actions.scenario(default={"exit": 3, "stderr": said})
    result = in_actions.run("acceptance", "-m", "runtime and lossy")
    lines = [line for text in result.outlines for line in text.split("\r")]
    commands = [line for line in lines if line.lstrip().startswith("::")]
    assert commands
    assert all(line.startswith("::error title=lossy_pass of runtime/joint_full-1::lossy_pass: ") for line in commands)
    assert not any("##[" in line for line in lines)


@pytest.mark.parametrize(("option", "variable", "told"), [("on", "", True), ("off", "true", False), ("auto", "", False)])
def test_the_option_decides_where_the_environment_does_not(
    project: GateProject, monkeypatch: pytest.MonkeyPatch, option: str, variable: str, told: bool
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", variable)
    result = project.run("acceptance", "-m", "runtime and lossy", f"--h2o-github={option}")
    assert any(line.startswith("::warning ") for line in result.outlines) is told


def test_a_step_summary_that_cannot_be_written_is_told_and_changes_no_verdict(
    in_actions: GateProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(in_actions.path / "no" / "such" / "folder.md"))
    result = in_actions.run("acceptance", "-m", "runtime and lossy")
    assert result.ret == ExitCode.OK
    result.stdout.fnmatch_lines(["GITHUB_STEP_SUMMARY: *expected a file to append to*"])


def test_junit_has_the_verdict_on_the_suite_and_value_limit_and_origin_on_each_test(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime and lossy", "--junitxml=junit.xml", "-n2", "-p", "xdist")
    (suite,) = ET.parse(project.path / "junit.xml").getroot().iter("testsuite")  # noqa: S314 our own file

    def properties(parent: ET.Element) -> dict[str | None, str | None]:
        return {item.get("name"): item.get("value") for item in parent.findall("properties/property")}

    told = properties(suite)
    assert (told["h2o_overall_pass"], told["h2o_outcome"], told["h2o_pack"]) == ("not judged", "not_judged", "runtime")
    assert (told["h2o_engine"] or "").endswith("scripted_llm_bench.py")
    assert len(told["h2o_engine_sha256"] or "") == 64
    assert told["h2o_report"] == "out"
    (test,) = suite.iter("testcase")
    case = properties(test)
    assert (case["h2o_case"], case["lossy_pass.value"], case["lossy_pass.limit"]) == ("runtime/joint_full-1", "3.2", "3.0")
    assert case["lossy_pass.limit_origin"] == "default"
