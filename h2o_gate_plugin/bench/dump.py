"""Ask the engine for a KV dump with its KV features off; the offline lossless evaluator reads it."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from h2o_gate_plugin.bench.config import KV_OFF
from h2o_gate_plugin.bench.engine import Engine
from h2o_gate_plugin.bench.measurement import ProcessRecord, record_document, record_from_document
from h2o_gate_plugin.bench.preset import DEFAULT_BACKEND, DEFAULT_THREADS, BenchConfig
from h2o_gate_plugin.bench.progress_event import Progress, ProgressEvent
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare, run_process
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.kv_options import suite_values
from h2o_gate_plugin.outside_file import inside, read_json

DUMP_FILE = "dump.json"


@dataclass(frozen=True)
class DumpMeasurement:
    """``folder`` holds ``<run_id>/layer_*/meta_*.json``; None with a one-line ``reason`` when the engine made no dump."""

    folder: Path | None
    reason: str | None
    record: ProcessRecord


def measure_dump(
    engine: Engine,
    out_dir: Path,
    *,
    prompt: int = 1024,
    gen: int = 128,
    backend: str = DEFAULT_BACKEND,
    threads: int = DEFAULT_THREADS,
    timeout_s: float,
    progress: Progress,
) -> DumpMeasurement:
    """Make the dump in ``out_dir`` once; whoever comes later gets the same answer, a failure included.

    ``prompt`` and ``gen`` in tokens. Raises ConfigError for a base config that cannot be used.
    """
    out_dir = out_dir.absolute()
    out_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(out_dir / "dump.lock"):
        kept = out_dir / DUMP_FILE
        if kept.is_file():
            return load_dump(out_dir)
        record = _run(engine, out_dir, prompt, gen, backend, threads, timeout_s, progress)
        reason = record.error
        if reason is None and not any((out_dir / "kv").glob("*/layer_*/meta_*.json")):
            reason = f"{out_dir / 'kv'}: KV dump: expected meta files from {engine.name}, got none; this engine may not dump KV"
        document = {"folder": None if reason else "kv", "reason": reason, "record": record_document(record, out_dir)}
        write_atomic(kept, json.dumps(document, indent=1) + "\n")
        return load_dump(out_dir)


def load_dump(out_dir: Path) -> DumpMeasurement:
    """What ``measure_dump`` left in ``out_dir``. Raises ConfigError when it is not there or not readable."""
    path = out_dir / DUMP_FILE
    try:
        document = read_json(path)
        folder = None if document["folder"] is None else inside(out_dir, document["folder"])
        return as_declared(DumpMeasurement(folder, document["reason"], record_from_document(document["record"], out_dir)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: dump: expected what a dump run writes, got {err!r}; measure again") from err


def _run(
    engine: Engine, out_dir: Path, prompt: int, gen: int, backend: str, threads: int, timeout_s: float, progress: Progress
) -> ProcessRecord:
    if (out_dir / "kv").is_dir():
        shutil.rmtree(out_dir / "kv")  # what an interrupted attempt left
    values = suite_values(KV_OFF, "dump")
    run_id = f"dump_p{prompt}_g{gen}"
    config = BenchConfig(run_id, prompt, gen, 1, backend, threads, 0, values)
    dump_env = {
        "MNN_KV_DUMP_DIR": str(out_dir / "kv"),
        "MNN_KV_DUMP_RUN_ID": run_id,
        "MNN_KV_DUMP_STAGE": "both",
        "MNN_KV_DUMP_MAX_TOKENS": str(prompt + gen),
        "H2O_BENCH_QUALITY": "off",
    }
    files = RunFiles.of(out_dir, run_id)
    launch = prepare(engine, config, files, {**os.environ, **dump_env}, timeout_s)
    started = time.monotonic()
    event = ProgressEvent("started", "dump", run_id, "dump", None, 1, 0, 1, 0.0)
    record = run_process(launch, config, files.config, event, progress)
    progress(replace(event, kind="finished", done=1, seconds=time.monotonic() - started, error=record.error))
    return record
