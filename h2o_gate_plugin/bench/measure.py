"""Measure a case once: interleaved baseline and candidate processes, under one lock per case and one per machine."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from h2o_gate_plugin.bench.baselines import read_manifest
from h2o_gate_plugin.bench.begun import difference, run_facts, whole_pairs
from h2o_gate_plugin.bench.engine import Engine, file_sha256
from h2o_gate_plugin.bench.host import pinned_threads
from h2o_gate_plugin.bench.measurement import (
    MANIFEST_FILE,
    MEASUREMENT_FILE,
    CaseMeasurement,
    ProcessRecord,
    load_measurement,
    record_document,
    save_measurement,
)
from h2o_gate_plugin.bench.pack import PackCase
from h2o_gate_plugin.bench.preset import BenchConfig
from h2o_gate_plugin.bench.progress_event import Progress, ProgressEvent
from h2o_gate_plugin.bench.run_plan import PlannedProcess, case_key, pair_of, plan, plan_key
from h2o_gate_plugin.bench.timed_run import RunFiles, prepare, run_process
from h2o_gate_plugin.bench.trace import TRACE_VARIABLE
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import write_atomic

Undecided = Callable[[tuple[ProcessRecord, ...]], bool]
"""The records of one run so far → whether another pair is worth its time."""


def settled(records: tuple[ProcessRecord, ...]) -> bool:
    """The rule that never asks for another pair."""
    return False


def measure_case(
    engine: Engine,
    case: PackCase,
    out_dir: Path,
    *,
    pairs: int = 2,
    baseline: bool = True,
    timeout_s: float,
    progress: Progress,
    max_pairs: int = 1,
    undecided: Undecided = settled,
) -> CaseMeasurement:
    """Measure the case into ``out_dir/<label>-<hash8>/``, or return what another worker has measured there.

    What is measured is saved after every process; where an earlier run was cut short, this one goes on (``begun.whole_pairs``).
    After its ``pairs`` a run goes on pair by pair, up to ``max_pairs``, for as long as ``undecided`` says so; every pair counts.
    A failed process is remembered (its record has ``error``) and the run it belongs to is not tried further; other runs go on.
    Raises ConfigError for a case that cannot be planned, a folder measured with another number of pairs, and a measurement that was
    begun in another environment; FileError and OSError where the disk does not take it.
    """
    if pairs < 1:
        raise ConfigError(f"{case.id}: pairs: expected an integer >= 1, got {pairs!r}; ask for at least one pair")
    key = case_key(engine, case)
    label = f"{case.preset.name}-{case.run}"
    folder = out_dir.absolute() / f"{label}-{key[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        kept = folder / MEASUREMENT_FILE
        begun = _check_kept(load_measurement(kept), key, pairs, baseline) if kept.is_file() else None
        if begun is not None and begun.finished:
            done = len(begun.processes)
            progress(ProgressEvent("kept", label, "", None, None, begun.pairs, done, begun.planned, 0.0))
            return begun
        folder.mkdir(exist_ok=True)
        planned = plan(case, pairs, baseline)
        manifest = _manifest(engine, case, planned, folder, timeout_s)
        if begun is not None:
            begun, manifest = _go_on(begun, manifest)
            done = len(begun.processes)
            progress(ProgressEvent("resumed", label, "", None, None, begun.pairs, done, begun.planned, 0.0))
        write_atomic(folder / MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")
        modes = sorted({str(item.config.values["kv_lossless_runtime_mode"]) for item in planned})
        start = begun or CaseMeasurement(
            key=key,
            plan_key=plan_key(case),
            label=label,
            folder=folder,
            runtime_mode="+".join(modes),
            engine=engine.name,
            pairs=pairs if baseline else 1,
            baseline=baseline,
            planned=len(planned),
            processes=(),
            finished=False,
        )
        ended = _run_all(engine, planned, start, max_pairs if baseline else 1, undecided, timeout_s, progress)
        measurement = replace(ended, finished=True)
        save_measurement(measurement)
        return measurement


def _go_on(begun: CaseMeasurement, manifest: dict[str, Any]) -> tuple[CaseMeasurement, dict[str, Any]]:
    """What counts of ``begun``, and its own manifest with what is known of this part. Raises ConfigError when that is another now."""
    path = begun.folder / MANIFEST_FILE
    first = read_manifest(path)
    if (changed := difference(first, manifest)) is not None:
        raise ConfigError(f"{path}: expected the measurement that was begun there, got {changed}; choose another --h2o-out")
    records, again = whole_pairs(begun.processes, begun.baseline)
    part = {
        "unix_time": manifest["unix_time"],
        "kept_processes": len(records),
        "measured_again": [record_document(record, begun.folder) for record in again],
        "load": manifest["host"]["load"],
    }
    resumed = replace(begun, processes=records, resumed_after=(*begun.resumed_after, len(records)))
    return resumed, {**first, "resumed": [*first.get("resumed", ()), part]}


def _check_kept(measurement: CaseMeasurement, key: str, pairs: int, baseline: bool) -> CaseMeasurement:
    wanted = (key, pairs if baseline else 1, baseline)
    if (measurement.key, measurement.pairs, measurement.baseline) != wanted:
        raise ConfigError(
            f"{measurement.folder}: measurement: expected one with pairs={pairs}, baseline={baseline}, got one with "
            f"pairs={measurement.pairs}, baseline={measurement.baseline}; choose another --h2o-out"
        )
    return measurement


def _run_all(
    engine: Engine,
    planned: tuple[PlannedProcess, ...],
    start: CaseMeasurement,
    max_pairs: int,
    undecided: Undecided,
    timeout_s: float,
    progress: Progress,
) -> CaseMeasurement:
    """``start`` with all records in order and the number of processes that were planned in the end; saved whenever there is one more."""
    started = time.monotonic()
    label, known = start.label, {(record.run_id, record.role, record.pair): record for record in start.processes}
    records: list[ProcessRecord] = []
    failed_runs: set[str] = set()
    waiting = deque(planned)
    done, total = 0, len(planned)
    while waiting:
        item = waiting.popleft()
        done += 1
        run_id = item.config.run_id
        if run_id in failed_runs:
            continue
        pairs = max(item.pair, *(other.pair for other in waiting if other.config.run_id == run_id), 1)
        event = ProgressEvent("started", label, run_id, item.role, item.pair, pairs, done - 1, total, time.monotonic() - started)
        kept = known.get((run_id, item.role, item.pair))
        record = _run_one(engine, item, start.folder, event, timeout_s, progress) if kept is None else kept
        records.append(record)
        if record.error is not None:
            failed_runs.add(run_id)
        elif item.pair < max_pairs and not any(other.config.run_id == run_id for other in waiting):
            mine = tuple(other for other in records if other.run_id == run_id)
            begun = any((run_id, role, item.pair + 1) in known for role in ("baseline", "candidate"))
            if begun or undecided(mine):
                waiting.extendleft(reversed(pair_of(_candidate_config(item, planned), item.pair + 1)))
                total += 2
        if kept is not None:
            continue
        save_measurement(replace(start, processes=tuple(records), planned=total))
        seconds = None if record.result is None else record.result.seconds
        elapsed = time.monotonic() - started
        speed = record.rows[0].decode_tps.mean if record.rows and record.rows[0].decode_tps is not None else None
        ended = replace(event, kind="ended", done=done, total=total, seconds=elapsed, process_seconds=seconds, decode_tps=speed)
        progress(replace(ended, error=record.error))
    error = next((record.error for record in records if record.error is not None), None)
    progress(ProgressEvent("finished", label, "", None, None, max_pairs, total, total, time.monotonic() - started, error=error))
    return replace(start, processes=tuple(records), planned=total)


def _candidate_config(item: PlannedProcess, planned: tuple[PlannedProcess, ...]) -> BenchConfig:
    return next(other.config for other in planned if other.config.run_id == item.config.run_id and other.role == "candidate")


def _run_one(
    engine: Engine, item: PlannedProcess, folder: Path, event: ProgressEvent, timeout_s: float, progress: Progress
) -> ProcessRecord:
    name = f"{item.config.run_id}-{item.role}"
    files = RunFiles.of(folder, f"{name}-{item.pair}", config_name=name)
    env = {key: value for key, value in os.environ.items() if not key.startswith("MNN_KV_DUMP_")}
    env.pop(TRACE_VARIABLE, None)
    trace = trace_path(folder, item)
    if trace is None:
        env["H2O_BENCH_QUALITY"] = "off"  # the embedded engine's: its quality evidence is the same in every process of a run
    else:
        trace.parent.mkdir(exist_ok=True)
        trace.unlink(missing_ok=True)  # half of one, by an engine that was ended
        env[TRACE_VARIABLE] = str(trace)
    launch = replace(prepare(engine, item.config, files, env, timeout_s), trace_path=trace)
    record = run_process(launch, item.config, files.config, event, progress)
    return replace(record, trace_path=trace) if trace is not None and trace.is_file() else record


def trace_path(folder: Path, item: PlannedProcess) -> Path | None:
    """Where the first candidate of a run is asked to write what happens in its KV cache; the others are not asked."""
    if item.role == "baseline" or item.pair > 1:
        return None
    return folder / "traces" / f"{item.config.run_id}-{item.role}-{item.pair}.json"


def _manifest(engine: Engine, case: PackCase, planned: tuple[PlannedProcess, ...], folder: Path, timeout_s: float) -> dict[str, Any]:
    """What will be run, on what, with which files: written before the first process starts."""
    preset = case.preset
    return {
        "case": case.id,
        "run": case.run,
        "preset": {"name": preset.name, "sha256": None if preset.path is None else file_sha256(preset.path)},
        "overrides": dict(case.overrides),
        **run_facts(engine),
        "timeout_s": timeout_s,
        "processes": [
            {
                "run_id": item.config.run_id,
                "role": item.role,
                "pair": item.pair,
                "trace": None if (trace := trace_path(folder, item)) is None else str(trace.relative_to(folder)),
            }
            for item in planned
        ],
        "bucket": case.bucket,
        "prompts": [{"name": file.name, "path": str(file.path), "sha256": file.sha256} for file in case.prompt_files],
        "pinned_threads": sorted(pinned_threads(1)),
        "unix_time": time.time(),
    }
