"""Run a whole preset once, run by run, and write configs, logs and a manifest: what `h2o-gate bench` and `sweep` do."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from h2o_gate_plugin.bench.baselines import read_manifest
from h2o_gate_plugin.bench.begun import difference, run_facts
from h2o_gate_plugin.bench.engine import Engine, engine_argv
from h2o_gate_plugin.bench.measurement import MANIFEST_FILE, ProcessRecord, record_document, record_from_document
from h2o_gate_plugin.bench.preset import BenchConfig, Preset, expand
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.run_plan import configs_key
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare, run_process
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import write_atomic

LOCK_FILE = "sweep.lock"


def sweep_argvs(engine: Engine, preset: Preset, out_dir: Path) -> tuple[tuple[str, ...], ...]:
    """What ``run_sweep`` would start, in order; nothing is written."""
    runs = ((config, RunFiles.of(out_dir.absolute(), config.run_id)) for config in expand(preset, {}))
    return tuple(engine_argv(engine, config, files.config, files.log) for config, files in runs)


def run_sweep(engine: Engine, preset: Preset, out_dir: Path, timeout_s: float, say: Callable[[str], None]) -> tuple[ProcessRecord, ...]:
    """Run every config of the preset; a failed run is recorded and the others go on. ``say`` gets one line per run.

    Writes ``OUT/configs/*.json``, ``OUT/logs/*.log``, ``OUT/stdout/*.txt`` and, before the first run and after each,
    ``OUT/manifest.json``. Where OUT holds this very sweep, it goes on: runs that gave their row are not run again, failed ones are.
    Raises ConfigError when OUT holds another sweep, or another process is at work in it.
    """
    out_dir = out_dir.absolute()
    configs = expand(preset, {})
    facts = _facts(engine, preset, configs)
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out_dir / LOCK_FILE, timeout=0):
            return _run_all(engine, configs, facts, out_dir, timeout_s, say)
    except Timeout as err:
        raise ConfigError(
            f"{out_dir}: --out-dir: expected a folder of our own, got one in which another sweep is at work; wait for it"
        ) from err


def _facts(engine: Engine, preset: Preset, configs: tuple[BenchConfig, ...]) -> dict[str, Any]:
    return {
        "preset": preset.name,
        "plan_sha256": configs_key(configs),
        **run_facts(engine),
        "planned": len(configs),
    }


def _run_all(
    engine: Engine, configs: tuple[BenchConfig, ...], facts: dict[str, Any], out_dir: Path, timeout_s: float, say: Callable[[str], None]
) -> tuple[ProcessRecord, ...]:
    kept = {record.run_id: record for record in _begun(out_dir, facts) if record.error is None}
    if kept:
        say(f"{len(kept)} of {len(configs)} runs are done already")
    records = [kept[config.run_id] for config in configs if config.run_id in kept]
    lines = [_manifest_line(record, out_dir) for record in records]
    _write_manifest(out_dir, facts, lines)
    for index, config in enumerate(configs):
        if config.run_id not in kept:
            record = _run(engine, config, out_dir, timeout_s)
            records.append(record)
            lines.append(_manifest_line(record, out_dir))
            say(f"[{index + 1}/{len(configs)}] {config.run_id}: {_outcome(record)}")
            _write_manifest(out_dir, facts, lines)
    return tuple(records)


def _manifest_line(record: ProcessRecord, out_dir: Path) -> str:
    return json.dumps(record_document(record, out_dir))


def _write_manifest(out_dir: Path, facts: dict[str, Any], lines: list[str]) -> None:
    """``runs``, one a line, come last: they are put into words once, not anew after every run of thousands."""
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    runs = ",\n".join(lines)
    write_atomic(out_dir / MANIFEST_FILE, f'{head},\n "runs": [\n{runs}\n]}}\n')


def _begun(out_dir: Path, facts: dict[str, Any]) -> tuple[ProcessRecord, ...]:
    """What was measured there already. Raises ConfigError when it was another sweep, or on another host: figures would not compare."""
    path = out_dir / MANIFEST_FILE
    if not path.exists():
        return ()
    manifest = read_manifest(path)
    if (changed := difference(manifest, facts)) is not None:
        raise ConfigError(f"{out_dir}: --out-dir: expected the sweep that was begun there, got {changed}; choose another folder")
    return load_sweep(out_dir)


def load_sweep(out_dir: Path) -> tuple[ProcessRecord, ...]:
    """The runs of a sweep that are done. Raises ConfigError for a manifest that cannot be read."""
    path = out_dir / MANIFEST_FILE
    manifest = read_manifest(path)
    try:
        return tuple(record_from_document(document, out_dir) for document in manifest["runs"])
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: runs: expected what a sweep writes, got {err!r}; choose another folder") from err


def _run(engine: Engine, config: BenchConfig, out_dir: Path, timeout_s: float) -> ProcessRecord:
    files = RunFiles.of(out_dir, config.run_id)
    event = ProgressEvent("started", "sweep", config.run_id, "candidate", None, 1, 0, 1, 0.0)
    try:
        return run_process(prepare(engine, config, files, os.environ, timeout_s), config, files.config, event, lambda event: None)
    except KeyboardInterrupt:
        files.log.unlink(missing_ok=True)  # half a table would be in the way of whoever reads the folder
        raise


def _outcome(record: ProcessRecord) -> str:
    seconds = 0.0 if record.result is None else record.result.seconds
    if record.error is not None:
        argv = () if record.result is None else record.result.argv
        return f"FAILED after {seconds:.1f} s: {record.error}; argv: {shlex.join(argv)}"
    row = record.rows[0]
    lossy = row.measures.get("h2o_lossy")
    decode = "n/a" if row.decode_tps is None else f"{row.decode_tps.mean:.2f}"
    return f"{seconds:.1f} s, decode {decode} tok/s, h2o_lossy {'n/a' if lossy is None else f'{lossy.mean:.3f}'}"
