"""A sweep that was cut short goes on where it stood, and leaves a folder that can be used meanwhile."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.preset import Preset
from h2o_gate_plugin.bench.sweep import LOCK_FILE, run_sweep
from h2o_gate_plugin.errors import ConfigError

TINY = Preset("tiny", None, "", (16, 32), (4,), 1, "cpu", 1, 0, {"kv_h2o_block_tokens": (8, 16)})
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job of a shell it would be ignored
from h2o_gate_plugin.cli import main
sys.exit(main())
"""


def sweep(engine: Any, out: Path, preset: Preset = TINY) -> list[str]:
    said: list[str] = []
    run_sweep(engine, preset, out, 60.0, said.append)
    return said


def test_a_finished_sweep_is_not_run_again(tmp_path: Path, scripted: Any) -> None:
    made = scripted()
    sweep(made.engine, tmp_path / "out")
    assert sweep(made.engine, tmp_path / "out") == ["4 of 4 runs are done already"]
    assert len(made.calls()) == 4


def test_failed_runs_are_tried_again_and_the_order_stays_that_of_the_plan(tmp_path: Path, scripted: Any) -> None:
    made = scripted(rules=[{"when": {"prompt": 32, "call": 1}, "exit": 9}])
    assert sum("FAILED" in line for line in sweep(made.engine, tmp_path / "out")) == 1
    assert len(sweep(made.engine, tmp_path / "out")) == 2
    assert len(made.calls()) == 5
    errors = [item["error"] for item in json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["runs"]]
    assert errors == [None] * 4


def test_the_manifest_has_a_line_for_each_run_and_is_the_same_when_the_sweep_has_gone_on(tmp_path: Path, scripted: Any) -> None:
    made = scripted()
    sweep(made.engine, tmp_path)
    before = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    lines = [line for line in before.splitlines() if line.startswith('{"role"')]
    assert [json.loads(line.removesuffix(","))["run_id"][:8] for line in lines] == [f"run_000{number}" for number in range(1, 5)]
    sweep(made.engine, tmp_path)
    after = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(after)["runs"] == json.loads(before)["runs"]


@pytest.mark.parametrize("thing", ["preset", "engine", "model config", "host"])
def test_another_sweep_is_refused_in_one_line_that_says_what_differs(tmp_path: Path, scripted: Any, thing: str) -> None:
    engine, out = scripted().engine, tmp_path / "out"
    sweep(engine, out, replace(TINY, prompts=(16,), values={}))
    preset = TINY if thing == "preset" else replace(TINY, prompts=(16,), values={})
    changed = {"engine": {"sha256": "f" * 64}, "model config": {"config_sha256": "f" * 64}}.get(thing, {})
    if thing == "host":
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        manifest["host"]["cpu"] = "another CPU"
        (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"out: --out-dir: expected the sweep that was begun there, got another {thing} \(\w+ → \w+\)"):
        sweep(replace(engine, **changed), out, preset)


def test_the_folder_of_something_else_is_refused(tmp_path: Path, scripted: Any) -> None:
    (tmp_path / "manifest.json").write_text('{"case": "m3/joint_full-1"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"got another preset \(not known → "):
        sweep(scripted().engine, tmp_path)


def test_two_sweeps_do_not_work_in_one_folder_at_once(tmp_path: Path, scripted: Any) -> None:
    engine = scripted().engine
    with FileLock(tmp_path / LOCK_FILE), pytest.raises(ConfigError, match="got one in which another sweep is at work; wait for it"):
        sweep(engine, tmp_path)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupt_leaves_a_folder_that_can_be_read_and_the_same_command_goes_on(
    tmp_path: Path, scripted: Any, by: signal.Signals
) -> None:
    made = scripted(rules=[{"when": {"prompt": 32, "call": 1}, "hang": True}])
    preset, out = tmp_path / "tiny.yaml", tmp_path / "out"
    preset.write_text("prompts: [16, 32]\ngens: [4]\nrepeat: 1\nkv: {kv_h2o_block_tokens: [8, 16]}\n", encoding="utf-8")
    words = ["sweep", "--preset", preset, "--llm-bench", made.engine.name, "--base-config", made.engine.base_config, "--out-dir", out]
    argv = [sys.executable, "-c", INTERRUPTIBLE, *map(str, words)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    hanging = made.scenario.with_name("scenario.json.child")
    os.mkfifo(hanging)
    first = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    hanging.read_text(encoding="utf-8")  # the engine writes there once it hangs
    first.send_signal(by)
    printed, error = first.communicate()
    assert (first.returncode, error) == (130, "")
    assert "1 of 4 runs done" in printed
    assert "interrupted; the same command with --out-dir " in printed
    assert [case.label[:8] for case in load_measurements(out)] == ["run_0001"]
    with (out / "sweep.csv").open(encoding="utf-8") as file:
        assert [line["status"] for line in csv.DictReader(file)] == ["front", "not run", "not run", "not run"]
    again = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert "1 of 4 runs are done already" in again.stdout
    assert "4 of 4 runs done" in again.stdout
    assert len(made.calls()) == 5
