"""summary.json keeps its schema, whatever wrote it, and the schema describes every key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from h2o_gate_plugin.cli import main
from h2o_gate_plugin.report.model import SCHEMA_VERSION
from h2o_gate_plugin.report.outcome import EXIT_CODES
from h2o_gate_plugin.report.summary_json import SCHEMA_FILE

from .conftest import GateProject
from .test_prompts_pack import prompt_set, run_pack

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of the schema that names properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from objects_in(part)


def test_the_schema_is_one_of_its_own_draft() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description_and_only_the_evaluators_result_may_hold_others() -> None:
    for part in objects_in(SCHEMA):
        assert all(value.get("description") for value in part["properties"].values())
        assert part["additionalProperties"] is (part is SCHEMA["$defs"]["offline_result"])


def test_version_and_outcomes_are_those_of_the_code() -> None:
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert set(SCHEMA["properties"]["outcome"]["enum"]) == set(EXIT_CODES)


def test_an_unknown_key_is_refused() -> None:
    assert any("unheard_of" in error.message for error in VALIDATOR.iter_errors({"unheard_of": 1}))


@pytest.mark.parametrize(
    ("scenario", "outcome"),
    [
        ({"default": {"evidence": True}}, "pass"),
        ({"rules": [{"when": {"kv": "on", "dump": False}, "cells": {"h2o_lossy": "2.000 ± 0.000"}}]}, "gate_failed"),
        ({"default": {"exit": 3}}, "engine_broken"),
    ],
    ids=["pass", "fail", "not measured"],
)
def test_the_summary_of_a_run_keeps_the_schema(project: GateProject, scenario: dict[str, Any], outcome: str) -> None:
    project.scenario(**scenario)
    project.run("acceptance", "-m", "runtime")
    assert project.summary()["outcome"] == outcome
    VALIDATOR.validate(project.summary())


def test_the_summary_of_prompts_keeps_the_schema(project: GateProject) -> None:
    prompt_set(project)
    run_pack(project)
    VALIDATOR.validate(project.summary())


def test_the_summary_of_analyze_keeps_the_schema(project: GateProject) -> None:
    assert project.run("acceptance", "-m", "runtime").ret == 0
    results = project.summary()["offline"]
    for name, result in results.items():
        (project.path / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    words = ["analyze", "--csv", "out/h2o_metrics.csv", "--decode-aggregate=avg", "--out=again/summary.md", "--out-json=again/summary.json"]
    offline = ["--offline-lossless-online-json=online_sim.json", "--offline-lossless-json=upper_bound.json"]
    assert main([*words, *offline]) == 0
    again = project.summary("again")
    assert (again["outcome"], again["pack"], again["offline"]) == ("pass", "analyze", results)
    VALIDATOR.validate(again)
    assert main(words) == 1
    VALIDATOR.validate(project.summary("again"))


def test_the_schema_is_printed_for_those_who_have_the_package_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert SCHEMA_FILE.parent == Path(__file__).parents[3] / "h2o_gate_plugin" / "report"
