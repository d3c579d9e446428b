"""The commands of docs/ci.md work as they are written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from h2o_gate_plugin.cli import main

from .conftest import GateProject

TEXT = (Path(__file__).parents[3] / "docs" / "ci.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def workflow() -> dict[str, Any]:
    (block,) = blocks("yaml")
    document: dict[str, Any] = yaml.safe_load(block)
    return document


def test_the_workflow_s_pytest_commands_run_one_after_the_other(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    reads = dict.fromkeys(("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"), "5.00 ± 0.00")
    project.scenario(rules=[{"when": {"mode": "store", "kv": "on"}, "cells": reads}])
    steps = [shlex.split(step["run"]) for step in workflow()["jobs"]["m3"]["steps"] if step.get("run", "").startswith("pytest")]
    assert len(steps) == 2
    plain = ("--decode-pairs=1", "--decode-max-pairs=1", "--decode-aggregate=avg")
    for words in steps:
        engine = () if any(word.startswith("--h2o-from") for word in words) else project.engine_options[:4]
        result = project.start("acceptance", *words[1:], *engine, *plain)
        assert result.ret == 0, result.stdout.str()
    assert project.summary("gates")["outcome"] == project.summary("gates-next")["outcome"] == "pass"
    assert (project.path / "gates-junit.xml").is_file()
    assert (project.path / "step.md").read_text(encoding="utf-8").count("## h2o-gate m3: overall_pass true") == 2


def test_what_the_workflow_uploads_is_what_it_wrote() -> None:
    steps = workflow()["jobs"]["m3"]["steps"]
    (upload,) = [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")]
    assert any(f"--h2o-out={upload} " in step.get("run", "") for step in steps)


@pytest.mark.parametrize(("code", "told"), [(0, "gates hold"), (1, "gates failed"), (10, "no verdict"), (11, "no verdict")])
def test_the_shell_script_tells_the_codes_apart_and_ends_with_the_same(tmp_path: Path, code: int, told: str) -> None:
    """pytest is a stand-in that ends with the code."""
    (tmp_path / "pytest").write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    (tmp_path / "pytest").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", blocks("sh")[0]], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, told in done.stdout) == (code, True)


def test_the_schema_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("h2o-gate ")]
    assert main(shlex.split(command.partition(">")[0])[1:]) == 0
    assert json.loads(capsys.readouterr().out)["title"]
