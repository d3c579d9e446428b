"""The user's commands of the documents, typed one after the other in a folder that has what the page speaks of. Engine: the scripted one.

docs/own-cases.md and docs/ci.md have tests of their own beside this one. Not run here: what installs something (`make smoke` does), what
takes a cluster (tests/unit/offline/test_cluster.py does the same in this process), benchmarks and tools (minutes; their options are
checked by test_document_commands.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from h2o_gate_plugin import cli

from ..test_document_commands import COMMANDS, Command
from .conftest import ENGINE, GateProject

RUN_ELSEWHERE = ("docs/ci.md", "docs/own-cases.md")
PROGRAMS = ("pytest", "h2o-gate")
RUNS = ("RUN", "20261125T000715Z-m3")
PLACEHOLDER = re.compile(r"\b(HOST|LOGS_OR_CSV|PACK|NAME|METRIC|A|B)\b|…|\|")
"""A command with one is a pattern, not a command."""
ADAPTER = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def typed(command: Command) -> bool:
    words = command.words
    if not words or words[0] not in PROGRAMS or PLACEHOLDER.search(command.text):
        return False
    return not command.is_prose or (words[0] == "pytest" and words[1] == "-m")


BY_PAGE: dict[str, list[Command]] = {}
for known in COMMANDS:
    if typed(known):
        BY_PAGE.setdefault(known.page, []).append(known)


ENVIRONMENT = {
    "H2O_LLM_BENCH": "build/llm_bench",
    "H2O_MODEL_CONFIG": "config.json",
    "H2O_PROMPT_COMMAND": f"{shlex.quote(sys.executable)} {{llm_bench}} -m {{config}} -kv true -p {{prompt}} -n {{gen}} -rep {{repeat}} "
    "-fp {log} -a {prompt_file}",
    "H2O_DECODE_PAIRS": "1",
    "H2O_DECODE_MAX_PAIRS": "1",
    "H2O_DECODE_AGGREGATE": "avg",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine, its model, two finished runs, their dump in two layouts, prompts and an adapter."""
    path = tmp_path_factory.mktemp("reader")
    (path / "build").mkdir()
    shutil.copy(ENGINE, path / "build" / "llm_bench")
    (path / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    (path / "config.json").write_text(json.dumps({"base_dir": "", "scenario": "scenario.json"}), encoding="utf-8")
    reads = dict.fromkeys(("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"), "5.00 ± 0.00")
    stored = {"when": {"mode": "store", "kv": "on"}, "cells": {**reads, "kv_range_resident_mb": "0.8000 ± 0.0000"}}
    (path / "scenario.json").write_text(json.dumps({"default": {"evidence": True}, "rules": [stored]}), encoding="utf-8")
    write_prompts(path / "my")
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": str(path)}
    for name in RUNS:
        words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "m3", f"--h2o-out=h2o-out/{name}")
        subprocess.run(words, cwd=path, env=environment, check=True, stdout=subprocess.DEVNULL)
    dump = path / "h2o-out" / RUNS[0] / "dump" / "kv"
    for name in ("DUMP", "dump"):
        shutil.copytree(dump, path / name)
    (path / "kv").mkdir()
    for part in ("k", "v"):
        np.save(path / "kv" / f"layer_0_{part}.npy", np.random.default_rng(1).normal(size=(2, 40, 16)).astype(np.float16))
    return path


def write_prompts(folder: Path) -> None:
    """Four texts of each bucket, as a folder and as a manifest."""
    (folder / "prompts").mkdir(parents=True)
    listed = []
    for bucket in (128, 512, 2048):
        for number in range(1, 5):
            name = f"prompts/prompt_{bucket}_{number}.txt"
            (folder / name).write_text(f"text {number} of bucket {bucket}", encoding="utf-8")
            listed.append(f"  - {{bucket: {bucket}, file: {name}}}\n")
    (folder / "prompts.yaml").write_text(f"prompts:\n{''.join(listed)}", encoding="utf-8")


@pytest.fixture
def reader(project: GateProject, template: Path, monkeypatch: pytest.MonkeyPatch) -> GateProject:
    shutil.rmtree(project.path / "acceptance")
    shutil.copytree(template, project.path, dirs_exist_ok=True)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return project


def run(reader: GateProject, command: Command, monkeypatch: pytest.MonkeyPatch) -> int:
    words = [word.replace("/models/qwen/config.json", "config.json") for word in command.words]
    if words[0] == "pytest":
        with monkeypatch.context() as context:
            if any(word.startswith("--h2o-from") for word in words):
                for name in ("H2O_LLM_BENCH", "H2O_MODEL_CONFIG", "H2O_PROMPT_COMMAND"):
                    context.delenv(name)
            return int(reader.start(*words[1:]).ret)
    engine = ("--llm-bench", "build/llm_bench", "--base-config", "config.json") if words[1] == "sweep" else ()
    return cli.main([*words[1:], *engine])


@pytest.mark.parametrize("page", [page for page in BY_PAGE if page not in RUN_ELSEWHERE])
def test_every_command_of_the_page_ends_well(reader: GateProject, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in sorted(BY_PAGE[page], key=lambda command: command.words[0]):  # h2o-gate first: it speaks of the runs that are there
        assert run(reader, command, monkeypatch) == 0, command.text


def test_every_page_with_commands_of_a_user_is_here() -> None:
    assert {"README.md", "docs/history.md", "docs/offline.md", "docs/offline-report.md", "docs/prompts.md", *RUN_ELSEWHERE} <= set(BY_PAGE)
    assert sum(map(len, BY_PAGE.values())) > 30


def test_a_command_that_fails_is_seen(reader: GateProject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(reader, Command("page", "pytest -m m3 --min-lossy=3.3"), monkeypatch) == 1
    assert run(reader, Command("page", "h2o-gate compare latest none"), monkeypatch) == 4
