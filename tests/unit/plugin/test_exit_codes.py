"""What CI sees: a failed gate, nothing measured, a broken engine and wrong configuration end in codes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.exit_codes import ExitCode

from .conftest import GateProject

ON = {"kv": "on", "dump": False}
DOCUMENT = Path(__file__).parents[3] / "docs" / "ci.md"


def test_a_gate_that_fails_ends_in_pytests_own_code_of_failed_tests(project: GateProject) -> None:
    project.scenario(rules=[{"when": ON, "cells": {"h2o_lossy": "2.000 ± 0.000"}}])
    assert project.run("acceptance", "-m", "runtime and lossy").ret == ExitCode.GATE_FAILED
    assert project.summary()["outcome"] == "gate_failed"


def test_an_engine_that_fails_in_every_process_is_told_apart_from_a_gate(project: GateProject) -> None:
    project.scenario(default={"exit": 3, "stderr": "boom"})
    assert project.run("acceptance", "-m", "runtime and lossy").ret == ExitCode.ENGINE_BROKEN
    assert project.summary()["outcome"] == "engine_broken"


def test_an_engine_that_cannot_be_started_is_a_broken_one_under_xdist_too(project: GateProject) -> None:
    (project.path / "engine").write_text("no program\n", encoding="utf-8")
    (project.path / "engine").chmod(0o755)
    options = ["--llm-bench=engine", *project.engine_options[2:]]
    assert project.start("acceptance", "-m", "runtime and lossy", "-n2", "-p", "xdist", *options).ret == ExitCode.ENGINE_BROKEN


def test_kept_artifacts_without_the_case_are_nothing_to_measure_by(project: GateProject) -> None:
    assert project.run("acceptance", "-m", "runtime and lossy").ret == ExitCode.OK
    result = project.start("acceptance", "-m", "runtime and lossy", "--h2o-from=out")  # of another preset than the pack's
    assert result.ret == ExitCode.NOTHING_MEASURED


def test_a_test_of_ones_own_that_fails_beside_a_broken_engine_stays_a_failed_test(project: GateProject) -> None:
    project.scenario(default={"exit": 3})
    (project.path / "acceptance" / "test_own.py").write_text(
        "import pytest\n\n@pytest.mark.lossy\ndef test_own(h2o_case):\n    assert not h2o_case.evidence.failures\n", encoding="utf-8"
    )
    assert project.run("acceptance", "-m", "runtime and lossy").ret == ExitCode.GATE_FAILED


def test_a_test_of_ones_own_that_fails_although_its_gate_holds_is_a_failed_test(project: GateProject) -> None:
    (project.path / "own").mkdir()
    (project.path / "own" / "test_own.py").write_text(
        "def test_own(h2o_case):\n    assert h2o_case.gate('lossy_pass').failed\n", encoding="utf-8"
    )
    assert project.run("own", "-m", "runtime").ret == ExitCode.GATE_FAILED
    assert project.summary()["outcome"] == "not_judged"


def test_codes_that_pytest_has_too_mean_the_same() -> None:
    ours = (ExitCode.OK, ExitCode.GATE_FAILED, ExitCode.INTERRUPTED, ExitCode.WRONG_CONFIGURATION)
    pytests = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)
    assert [int(code) for code in ours] == [int(code) for code in pytests]


def test_our_own_codes_are_none_of_pytests() -> None:
    assert {ExitCode.NOTHING_MEASURED, ExitCode.ENGINE_BROKEN}.isdisjoint(set(pytest.ExitCode))


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name.lower())
def test_every_exit_code_is_documented(code: ExitCode) -> None:
    assert f"| {int(code)} |" in DOCUMENT.read_text(encoding="utf-8")
