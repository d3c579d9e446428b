"""Faults outside of an engine: tables, dumps, baselines, configs and limits that lie. An engine that computes nothing prints the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.engine import REFERENCE_BENCH_CONFIG

from .gate_runs import FAULTS, Arrange, GateCommand, engine_run, run_gates

SCRIPTED = FAULTS.parent / "engines" / "scripted_llm_bench.py"
PRESET = """\
description: what the scripted engine says it ran
prompts: {prompts}
gens: [8]
repeat: 2
kv: {{kv_h2o_target_lossy_ratio: 3.2, kv_h2o_trigger_min_tokens: 32, kv_h2o_sink_tokens: 2, kv_h2o_recent_tokens: 8}}
"""
ON, OFF = {"kv": "on", "dump": False}, {"kv": "off", "dump": False}
Rules = Sequence[Mapping[str, Any]]


def scripted(rules: Rules, *options: str, prompts: Sequence[int] = (64,), dump: str = "mixed", without: Sequence[str] = ()) -> Arrange:
    """A gate run on the scripted engine, whose rules say what it prints to which call."""

    def arrange(folder: Path) -> GateCommand:
        scenario = {"default": {"evidence": True, "dump": dump, "without": list(without)}, "rules": list(rules)}
        (folder / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"base_dir": "", "scenario": "scenario.json"}), encoding="utf-8")
        (folder / "scripted.yaml").write_text(PRESET.format(prompts=list(prompts)), encoding="utf-8")
        given = {option.partition("=")[0] for option in options}
        words = (f"--llm-bench={SCRIPTED}", f"--model-config={folder / 'config.json'}", f"--preset={folder / 'scripted.yaml'}")
        pairs = ("--decode-pairs=4", "--decode-max-pairs=4")
        return GateCommand((*words, *(() if "--decode-pairs" in given else pairs), "--require-evidence=all", *options))

    return arrange


def kept_logs(logs: Mapping[str, Sequence[str]]) -> Arrange:
    """A gate run on logs made elsewhere. ``logs``: file → the h2o_lossy cell of each process that appended its table to it, in order."""

    def arrange(folder: Path) -> GateCommand:
        (folder / "logs").mkdir()
        (folder / "scenario.json").write_text("{}", encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"base_dir": "", "kv_h2o_enable": True}), encoding="utf-8")
        for name, cells in logs.items():
            for cell in cells:
                answers = {"default": {"evidence": True, "cells": {"h2o_lossy": cell}}}
                (folder / "scenario.json").write_text(json.dumps(answers), encoding="utf-8")
                _start_scripted(folder, "1024" if "_p1024_" in name else "512", folder / "logs" / name)
        return GateCommand(("-m", "runtime and lossy", f"--h2o-from={folder / 'logs'}"))

    return arrange


def dump_with_damaged_front(damaged: bool) -> Arrange:
    """A dump whose layer 0 compresses to almost nothing and whose layer 1 does not compress; ``damaged``: layer 0 is cut off."""

    def arrange(folder: Path) -> GateCommand:
        for kind in ("constant", "noise"):
            (folder / "scenario.json").write_text(json.dumps({"default": {"dump": kind}}), encoding="utf-8")
            (folder / "config.json").write_text(json.dumps({"base_dir": ""}), encoding="utf-8")
            _start_scripted(folder, "512", folder / f"{kind}.log", MNN_KV_DUMP_DIR=str(folder / kind))
        layer_0, layer_1 = (folder / "constant" / "run" / f"layer_{layer}" for layer in (0, 1))
        shutil.rmtree(layer_1)
        shutil.copytree(folder / "noise" / "run" / "layer_1", layer_1)
        for tensor in layer_0.glob("*.bin") if damaged else ():
            tensor.write_bytes(tensor.read_bytes()[:-2])
        return scripted((), "-m", "runtime and online_lossless", f"--dump-dir={folder / 'constant'}")(folder)

    return arrange


def evaluator_without_low_bytes(planted: bool) -> Arrange:
    """``planted``: in the process of the gate run, the evaluator's encoder drops the low byte of every word."""

    def arrange(folder: Path) -> GateCommand:
        command = scripted((), "-m", "runtime and online_lossless")(folder)
        plugin = ("-p", f"{FAULTS.name}.lossy_evaluator") if planted else ()
        return GateCommand((*command.options, *plugin), {"PYTHONPATH": str(FAULTS.parent)})

    return arrange


def config_without_layer_count() -> Arrange:
    """The reference model with a config.json that does not say how many layers it has."""

    def arrange(folder: Path) -> GateCommand:
        model = folder / "model"
        shutil.copytree(REFERENCE_BENCH_CONFIG.parent, model)
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        del config["num_hidden_layers"]
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
        run = engine_run("none", "full", gates=("lossy",), quality=False, model_config=model / REFERENCE_BENCH_CONFIG.name)
        return run(folder)

    return arrange


def kept_baseline(fault: str) -> Arrange:
    """A sound candidate against the baseline of an earlier run, which was measured with ``fault``."""

    def arrange(folder: Path) -> GateCommand:
        earlier = folder / "earlier"
        earlier.mkdir()
        options = ("--decode-pairs=2", "--decode-max-pairs=2")
        gates = ("decode_drop",)
        run_gates(earlier, engine_run(fault, "timing", gates=gates, quality=False, options=options, alone=True))
        # the subject is the baseline that is not believed: no drop of this candidate comes near the limit
        against = (f"--decode-baseline={earlier / 'out'}", "--decode-pairs=2", "--decode-max-pairs=2", "--max-decode-drop=0.4")
        return engine_run("none", "timing", gates=gates, quality=False, options=against, alone=True)(folder)

    return arrange


def _start_scripted(folder: Path, prompt: str, log: Path, **variables: str) -> None:
    argv = (str(SCRIPTED), "-m", str(folder / "config.json"), "-kv", "true", "-p", prompt, "-n", "128", "-rep", "2", "-fp", str(log))
    environment = {**os.environ, "SCRIPTED_BENCH": str(folder / "scenario.json"), **variables}
    subprocess.run([sys.executable, *argv], check=True, env=environment, stdout=subprocess.DEVNULL)
