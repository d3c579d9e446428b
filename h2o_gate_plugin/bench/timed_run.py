"""One llm_bench process alone on this machine: its files, how it is started, and the row that was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout

from h2o_gate_plugin.bench.config import write_config
from h2o_gate_plugin.bench.engine import Engine, engine_argv
from h2o_gate_plugin.bench.host import pinned_threads, timed_run_lock
from h2o_gate_plugin.bench.measurement import ProcessRecord
from h2o_gate_plugin.bench.preset import BenchConfig
from h2o_gate_plugin.bench.process import Launch, ProcessResult, run_llm_bench
from h2o_gate_plugin.bench.progress_event import Progress, ProgressEvent
from h2o_gate_plugin.bench.table import BenchRow, parse_log
from h2o_gate_plugin.errors import TableError

PROMPT_FILE_VARIABLE = "H2O_BENCH_PROMPT_FILE"
"""What tells the embedded engine, and any other that reads it, which text to run on."""


@dataclass(frozen=True)
class RunFiles:
    """Where a process's config, table and output lie below the folder of its case, dump or sweep."""

    folder: Path
    config: Path
    log: Path
    stdout: Path

    @staticmethod
    def of(folder: Path, name: str, config_name: str | None = None) -> RunFiles:
        """``config_name``: where processes share a config; None: ``name``."""
        config = folder / "configs" / f"{config_name or name}.json"
        return RunFiles(folder, config, folder / "logs" / f"{name}.log", folder / "stdout" / f"{name}.txt")


def prepare(engine: Engine, config: BenchConfig, files: RunFiles, env: Mapping[str, str], timeout_s: float) -> Launch:
    """Make the folders, write the config, and say how to start the process. Raises ConfigError for a bad base config.

    Thread pools are held to -t whatever the environment says: both roles of a pair must run alike, on every day.
    """
    for path in (files.config, files.log, files.stdout):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_config(engine.base_config, config.values, files.config)
    argv = engine_argv(engine, config, files.config, files.log)
    if config.prompt_file is not None:
        env = {**env, PROMPT_FILE_VARIABLE: str(config.prompt_file.path)}
    return Launch(argv, {**env, **pinned_threads(config.threads)}, files.folder, timeout_s, files.log, files.stdout, engine=engine)


def run_process(launch: Launch, config: BenchConfig, config_path: Path, event: ProgressEvent, progress: Progress) -> ProcessRecord:
    """Run one process alone on this machine and read its one row; ``event`` ("started") says which it is.

    Rows count only when the process ended well and printed exactly the row that was asked for.
    """
    lock = timed_run_lock()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(replace(event, kind="waiting"))
        lock.acquire()
    try:
        progress(event)
        load, result = os.getloadavg()[0], run_llm_bench(launch)
    finally:
        lock.release()
    rows, error = ((), result.error) if result.error is not None else _rows_of(result, config)
    return ProcessRecord(event.role or "candidate", event.pair, config.run_id, config_path, result, rows, error, load)


def _rows_of(result: ProcessResult, config: BenchConfig) -> tuple[tuple[BenchRow, ...], str | None]:
    """The row that was asked for, or why it is not there; an engine may exit 0 without a model and without a row."""
    if not result.log_path.is_file():
        return (), f"{result.log_path}: log: expected a table from llm_bench, got no file although it exited 0; see its stdout"
    try:
        rows = parse_log(result.log_path)
    except TableError as err:
        return (), str(err)
    lengths = [(row.prompt_tokens, row.gen_tokens) for row in rows]
    if lengths != [(config.prompt, config.gen)]:
        shown = ", ".join(f"prompt={prompt} decode={gen}" for prompt, gen in lengths)
        return (), f"{result.log_path}: rows: expected one row prompt={config.prompt} decode={config.gen}, got {shown}; see its stdout"
    return rows, None
