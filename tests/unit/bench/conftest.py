"""The scripted engine as a fixture: a real process whose table a test dictates."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.engine import Engine, external_engine
from h2o_gate_plugin.bench.pack import PackCase
from h2o_gate_plugin.bench.preset import Preset
from h2o_gate_plugin.kv_options import KvValue

SCRIPTED_LLM_BENCH = Path(__file__).parents[2] / "engines" / "scripted_llm_bench.py"


@dataclass(frozen=True)
class ScriptedEngine:
    engine: Engine
    scenario: Path

    def calls(self) -> list[dict[str, Any]]:
        path = self.scenario.with_name(f"{self.scenario.name}.calls.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


MakeEngine = Callable[..., ScriptedEngine]
MakeCase = Callable[..., PackCase]


@pytest.fixture(autouse=True)
def machine_lock_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate run on this machine must not hold up the unit tests."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def scripted(tmp_path: Path) -> MakeEngine:
    """``scripted(default={...}, rules=[...])`` → the engine that plays this scenario."""

    def make(**scenario: Any) -> ScriptedEngine:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "scenario.json").write_text(json.dumps(scenario))
        config = folder / "config.json"
        config.write_text(json.dumps({"base_dir": "", "scenario": "scenario.json", "llm_model": "m.bin"}))
        engine = external_engine(SCRIPTED_LLM_BENCH, config)
        # This interpreter without its site packages starts faster than what `env python3` finds.
        engine = replace(engine, argv=(sys.executable, "-S", "-E", *engine.argv))
        return ScriptedEngine(engine, folder / "scenario.json")

    return make


@pytest.fixture
def make_case() -> MakeCase:
    def make(
        prompts: tuple[int, ...] = (16,),
        values: dict[str, tuple[KvValue, ...]] | None = None,
        overrides: dict[str, KvValue] | None = None,
        case_id: str = "tiny/joint-1",
        run: int = 1,
    ) -> PackCase:
        preset = Preset("tiny", None, "", prompts, (4,), 1, "cpu", 1, 0, values or {})
        return PackCase(case_id, case_id.split("/")[0], "joint", run, preset, overrides or {}, {})

    return make
