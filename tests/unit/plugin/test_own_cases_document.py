"""The project of docs/own-cases.md, as it is written there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from .conftest import ENGINE, GateProject

TEXT = (Path(__file__).parents[3] / "docs" / "own-cases.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', TEXT, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line) for line in dict.fromkeys(re.findall(r"^\$ (pytest .*?)(?: +#.*)?$", TEXT, flags=re.MULTILINE))]
PLAIN = (f"--llm-bench={ENGINE}", "--model-config=config.json", "--decode-pairs=1", "--decode-max-pairs=1", "--decode-aggregate=avg")


@pytest.fixture
def own(project: GateProject) -> GateProject:
    shutil.rmtree(project.path / "acceptance")
    for name, text in FILES.items():
        file = project.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    reads = dict.fromkeys(("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"), "5.00 ± 0.00")
    project.scenario(rules=[{"when": {"mode": "store", "kv": "on"}, "cells": reads}])
    return project


@pytest.mark.parametrize("command", COMMANDS, ids=shlex.join)
def test_every_command_of_the_page_ends_green(own: GateProject, command: list[str]) -> None:
    result = own.start(*command[1:], *PLAIN, "--h2o-out=out")
    assert result.ret == 0, result.stdout.str()
    assert own.summary()["cases"]


def test_the_pack_s_cases_and_budgets_are_those_of_the_file(own: GateProject) -> None:
    own.start("-m", "kv and lossy", *PLAIN, "--h2o-out=out")
    cases = {case["id"]: case["gates"][0] for case in own.summary()["cases"]}
    assert list(cases) == ["kv/full-1", "kv/full-2", "kv/store-1"]
    assert [gate["limit"] for gate in cases.values()] == [3.1, 3.1, 3.0]


def test_the_project_s_own_tests_run_and_turn_red(own: GateProject) -> None:
    result = own.start("tests", "-m", "kv", *PLAIN, "--h2o-out=out")
    result.assert_outcomes(passed=3)
    own.scenario(default={"cells": {"h2o_evict_us": "101.00 ± 1.00"}})
    result = own.start("tests", "-m", "kv", *PLAIN, "--h2o-out=red")
    result.assert_outcomes(failed=3)
    own.start("tests", "-k", "where_settings").assert_outcomes(passed=1)


def test_the_marker_is_known_and_listed(own: GateProject) -> None:
    assert "@pytest.mark.kv: acceptance tests of the pack kv" in own.start("--markers").stdout.str()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gates/none.yaml", ("--packs", "existing path")),
        ("gates/m3.yaml", ("--packs", "free marker", "'m3'")),
        ("gates/my-pack.yaml", ("--packs", "free marker", "'my-pack'")),
        ("gates/kv.yaml,kv.yaml", ("--packs", "different names")),
        (",", ("--packs", "different names")),
    ],
)
def test_a_pack_that_cannot_be_named_is_refused_in_one_line(own: GateProject, text: str, words: tuple[str, ...]) -> None:
    for name in ("gates/m3.yaml", "gates/my-pack.yaml", "kv.yaml"):
        shutil.copy(own.path / "gates" / "kv.yaml", own.path / name)
    result = own.start("-m", "kv", f"--packs={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = [line for line in result.errlines if line.strip()]
    assert all(word in error for word in words)


def test_the_table_of_a_pack_of_one_s_own_is_judged_as_that_pack(own: GateProject) -> None:
    own.start("-m", "kv and lossy", *PLAIN, "--h2o-out=out")
    words = ("-m", "kv and lossy", "--h2o-from=out/h2o_metrics.csv", "--h2o-out=again")
    assert own.start(*words).ret == 0
    limits = {case["id"]: case["gates"][0]["limit"] for case in own.summary("again")["cases"]}
    assert limits == {"kv/full-1": 3.1, "kv/full-2": 3.1, "kv/store-1": 3.0}
