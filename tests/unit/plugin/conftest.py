"""A project of its own with the acceptance tests, driven by the scripted engine."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba.core.boxing  # noqa: F401  late, too, at the first kernel that is called
import pandas  # noqa: F401  late, too, when a table is written
import pytest
from numba.core.registry import cpu_target

import h2o_gate_plugin.offline.evaluator  # noqa: F401  what the plugin imports late: a run inside this process would import it anew each time
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.options import CASE_BUDGETS, OPTIONS

cpu_target.target_context.refresh()  # what numba imports late, for the same reason: it cannot register its types twice

GITHUB = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
REPOSITORY = Path(__file__).parents[3]
ACCEPTANCE = REPOSITORY / "tests" / "acceptance"
ENGINE = REPOSITORY / "tests" / "engines" / "scripted_llm_bench.py"
PRESET = """\
prompts: [64]
gens: [8]
repeat: 2
kv: {kv_h2o_target_lossy_ratio: 3.2, kv_h2o_trigger_min_tokens: 32, kv_h2o_sink_tokens: 2, kv_h2o_recent_tokens: 8}
"""
SOUND: dict[str, str] = dict.fromkeys(map(str, GATE_NAMES), "UNPROVEN") | dict.fromkeys(
    (
        "lossy_pass", "lossless_online_pass", "decode_pass", "runtime_decomp_pass", "runtime_queue_peak_pass", "runtime_fallback_pass",
        "repeats_pass", "async_wait_pass", "backpressure_pass", "log_pass",
    ),
    "PASS",
) | {"coverage_pass": "OFF", "decode_cache_pass": "OFF"}  # fmt: skip
"""What a good engine without evidence columns gets in full mode, which samples."""


@dataclass(frozen=True)
class GateProject:
    """``run`` starts pytest on the acceptance tests with the scripted engine; ``scenario`` says what the engine prints."""

    pytester: pytest.Pytester
    engine_options: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.pytester.path

    def scenario(self, **scenario: Any) -> None:
        (self.path / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")

    def calls(self) -> list[dict[str, Any]]:
        """Every start of the engine so far."""
        file = self.path / "scenario.json.calls.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def run(self, *args: str) -> pytest.RunResult:
        return self.start(*args, *self.engine_options)

    def start(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:anyio", *args)

    def summary(self, out: str = "out") -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.path / out / "summary.json").read_text(encoding="utf-8"))
        return summary

    def statuses(self, out: str = "out") -> dict[str, str]:
        """Gate → status of the one case."""
        (case,) = self.summary(out)["cases"]
        return {gate["name"]: gate["status"] for gate in case["gates"]}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> GateProject:
    """Own lock folder, so that a timed run elsewhere on this machine does not hold the tests up; no settings from outside."""
    monkeypatch.setattr(tempfile, "tempdir", str(pytester.path))
    monkeypatch.setenv("TMPDIR", str(pytester.path))
    for name in (*(name for option in OPTIONS for name in option.env), *(budget.env for budget in CASE_BUDGETS), "SCRIPTED_BENCH", *GITHUB):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(ACCEPTANCE, pytester.path / "acceptance", ignore=shutil.ignore_patterns("__pycache__"))
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nstrict = true\naddopts = ['--import-mode=importlib']\n")
    (pytester.path / "config.json").write_text(json.dumps({"base_dir": "", "scenario": "scenario.json"}), encoding="utf-8")
    (pytester.path / "mini.yaml").write_text(PRESET, encoding="utf-8")
    options = (
        "--llm-bench",
        str(ENGINE),
        "--model-config",
        "config.json",
        "--preset",
        "mini.yaml",
        "--decode-pairs=1",
        "--decode-max-pairs=1",
        "--decode-aggregate=avg",
        "--h2o-out=out",
    )
    made = GateProject(pytester, options)
    made.scenario()
    return made
