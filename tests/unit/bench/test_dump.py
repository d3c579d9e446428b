"""The dump run: KV features off, the contract's environment, remembered with its reason when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.dump import DumpMeasurement, load_dump, measure_dump
from h2o_gate_plugin.bench.engine import Engine
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.errors import ConfigError


def dump(engine: Engine, out_dir: Path, events: list[ProgressEvent] | None = None) -> DumpMeasurement:
    progress = events.append if events is not None else lambda event: None
    return measure_dump(engine, out_dir, prompt=24, gen=8, timeout_s=60.0, progress=progress)


def test_a_dump_is_made_once_with_features_off(tmp_path: Path, scripted: Any) -> None:
    engine = scripted()
    events: list[ProgressEvent] = []
    first, second = (dump(engine.engine, tmp_path / "out", events) for _ in range(2))
    assert first == second == load_dump(tmp_path / "out")
    assert first.reason is None
    assert first.folder == tmp_path / "out" / "kv"
    assert len(list(first.folder.glob("*/layer_*/meta_*.json"))) == 6
    (call,) = engine.calls()
    assert (call["kv"], call["prompt"], call["gen"], call["dump"]) == ("off", 24, 8, True)
    assert [event.kind for event in events] == ["started", "finished"]
    assert first.record.role == "dump"
    meta = json.loads(next(first.folder.glob("*/layer_0/meta_t0_24.json")).read_text())
    assert (meta["run_id"], meta["stage"]) == ("dump_p24_g8", "prefill")


@pytest.mark.parametrize("kind", ["none", "no-meta"])
def test_an_engine_without_a_dump_is_named_with_the_reason(tmp_path: Path, scripted: Any, kind: str) -> None:
    measured = dump(scripted(default={"dump": kind}).engine, tmp_path / "out")
    assert measured.folder is None
    assert measured.reason is not None
    assert "KV dump: expected meta files" in measured.reason


def test_a_failed_dump_run_is_remembered(tmp_path: Path, scripted: Any) -> None:
    engine = scripted(default={"exit": 5, "stderr": "no model"})
    first, second = (dump(engine.engine, tmp_path / "out") for _ in range(2))
    assert first == second
    assert (first.folder, first.reason) == (None, "exit code 5: no model")
    assert len(engine.calls()) == 1


def test_files_of_an_interrupted_attempt_do_not_count(tmp_path: Path, scripted: Any) -> None:
    stale = tmp_path / "out" / "kv" / "old" / "layer_0"
    stale.mkdir(parents=True)
    (stale / "meta_t0_1.json").write_text("{}")
    measured = dump(scripted(default={"dump": "none"}).engine, tmp_path / "out")
    assert measured.folder is None


@pytest.mark.parametrize("text", [None, "", "{}", "[]"])
def test_a_dump_that_is_not_there_is_a_clear_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "dump.json").write_text(text)
    with pytest.raises(ConfigError, match=r"dump\.json: dump: expected"):
        load_dump(tmp_path)
