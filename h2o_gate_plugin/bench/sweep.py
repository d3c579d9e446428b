"""Run a whole preset once, run by run, and write configs, logs and a manifest: what `h2o-gate bench` and `sweep` do."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.engine import Engine, engine_argv
from h2o_gate_plugin.bench.host import environment_facts, host_facts
from h2o_gate_plugin.bench.measure import ProgressEvent, RunFiles, prepare, run_process
from h2o_gate_plugin.bench.measurement import MANIFEST_FILE, ProcessRecord, record_document, write_atomic
from h2o_gate_plugin.bench.preset import BenchConfig, Preset, expand
from h2o_gate_plugin.errors import ConfigError


def sweep_argvs(engine: Engine, preset: Preset, out_dir: Path) -> tuple[tuple[str, ...], ...]:
    """What ``run_sweep`` would start, in order; nothing is written."""
    runs = ((config, RunFiles.of(out_dir.absolute(), config.run_id)) for config in expand(preset, {}))
    return tuple(engine_argv(engine, config, files.config, files.log) for config, files in runs)


def run_sweep(engine: Engine, preset: Preset, out_dir: Path, timeout_s: float, say: Callable[[str], None]) -> tuple[ProcessRecord, ...]:
    """Run every config of the preset; a failed run is recorded and the others go on. ``say`` gets one line per run.

    Writes ``OUT/configs/*.json``, ``OUT/logs/*.log``, ``OUT/stdout/*.txt`` and, after each run, ``OUT/manifest.json``.
    Raises ConfigError when OUT holds a sweep already.
    """
    out_dir = out_dir.absolute()
    if (out_dir / MANIFEST_FILE).exists():
        raise ConfigError(f"{out_dir}: --out-dir: expected a folder without a {MANIFEST_FILE}, got an earlier sweep; choose another")
    configs = expand(preset, {})
    facts: dict[str, Any] = {
        "preset": preset.name,
        "engine": {"name": engine.name, "argv": list(engine.argv), "sha256": engine.sha256},
        "base_config": {"path": str(engine.base_config), "sha256": engine.config_sha256},
        "environment": environment_facts(os.environ),
        "host": host_facts(),
    }
    records: list[ProcessRecord] = []
    for index, config in enumerate(configs):
        record = _run(engine, config, out_dir, timeout_s)
        records.append(record)
        say(f"[{index + 1}/{len(configs)}] {config.run_id}: {_outcome(record)}")
        documents = [record_document(done, out_dir) for done in records]
        write_atomic(out_dir / MANIFEST_FILE, json.dumps({**facts, "planned": len(configs), "runs": documents}, indent=1) + "\n")
    return tuple(records)


def _run(engine: Engine, config: BenchConfig, out_dir: Path, timeout_s: float) -> ProcessRecord:
    files = RunFiles.of(out_dir, config.run_id)
    event = ProgressEvent("started", "sweep", config.run_id, "candidate", None, 1, 0, 1, 0.0)
    return run_process(prepare(engine, config, files, os.environ, timeout_s), config, files.config, event, lambda event: None)


def _outcome(record: ProcessRecord) -> str:
    seconds = 0.0 if record.result is None else record.result.seconds
    if record.error is not None:
        argv = () if record.result is None else record.result.argv
        return f"FAILED after {seconds:.1f} s: {record.error}; argv: {shlex.join(argv)}"
    row = record.rows[0]
    lossy = row.measures.get("h2o_lossy")
    decode = "n/a" if row.decode_tps is None else f"{row.decode_tps.mean:.2f}"
    return f"{seconds:.1f} s, decode {decode} tok/s, h2o_lossy {'n/a' if lossy is None else f'{lossy.mean:.3f}'}"
