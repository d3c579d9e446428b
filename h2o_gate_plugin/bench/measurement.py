"""What was measured for one case: its processes, their rows and failures, written to and read from measurement.json."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from h2o_gate_plugin.bench.process import ProcessResult
from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.outside_file import inside, read_json

Role = Literal["baseline", "candidate", "dump"]

MEASUREMENT_FILE = "measurement.json"
MANIFEST_FILE = "manifest.json"
OFFLINE_FILE = "offline.json"
"""Of a whole run: what the offline evaluator said."""
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ProcessRecord:
    """One llm_bench process of a case. ``pair`` counts from 1 within its run; None where nothing is paired.

    ``rows`` is empty when ``error`` (one line) is set: rows of a failed process are not evidence. ``result`` and
    ``config_path`` are None for logs and CSVs that were made elsewhere. ``load``: the machine's 1-minute load when it started; None
    where not recorded. ``trace_path``: what the engine wrote of its KV cache; None where it wrote none, or was not asked.
    """

    role: Role
    pair: int | None
    run_id: str
    config_path: Path | None
    result: ProcessResult | None
    rows: tuple[BenchRow, ...]
    error: str | None
    load: float | None = None
    trace_path: Path | None = None


@dataclass(frozen=True)
class CaseMeasurement:
    """``key``: ``case_key`` of engine and case; ``plan_key`` the same without the engine, to find a kept measurement again.

    ``runtime_mode``: the case's lossless mode, "full+store" when swept, None when not known (logs made elsewhere).
    ``planned``: how many processes a complete measurement has; ``pairs`` per run; ``baseline`` whether it has baselines.
    ``finished``: nothing is left to start; False while it is measured, and for good where it was cut short. ``resumed_after``: how many
    processes were kept each time that it went on after such a cut.
    """

    key: str
    plan_key: str
    label: str
    folder: Path
    runtime_mode: str | None
    engine: str
    pairs: int
    baseline: bool
    planned: int
    processes: tuple[ProcessRecord, ...]
    finished: bool = True
    resumed_after: tuple[int, ...] = ()

    def rows(self) -> tuple[BenchRow, ...]:
        """The candidates' rows, in the order measured."""
        return tuple(row for record in self.processes if record.role == "candidate" for row in record.rows)

    def failures(self) -> tuple[ProcessRecord, ...]:
        return tuple(record for record in self.processes if record.error is not None)

    @property
    def complete(self) -> bool:
        """Every planned process ran and gave its row."""
        return self.unfinished is None and len(self.processes) == self.planned and not self.failures()

    @property
    def unfinished(self) -> str | None:
        """Why its rows are not the last word; None for a finished measurement."""
        if self.finished:
            return None
        return f"{len(self.processes)} of {self.planned} processes were measured before the run was cut short"


def save_measurement(measurement: CaseMeasurement) -> None:
    folder = measurement.folder
    document = {
        "schema_version": SCHEMA_VERSION,
        "key": measurement.key,
        "plan_key": measurement.plan_key,
        "label": measurement.label,
        "runtime_mode": measurement.runtime_mode,
        "engine": measurement.engine,
        "pairs": measurement.pairs,
        "baseline": measurement.baseline,
        "planned": measurement.planned,
        "complete": measurement.complete,
        "finished": measurement.finished,
        "resumed_after": list(measurement.resumed_after),
        "processes": [record_document(record, folder) for record in measurement.processes],
    }
    write_atomic(folder / MEASUREMENT_FILE, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def load_measurement(path: Path) -> CaseMeasurement:
    """Read a measurement.json; paths are relative to its folder, which may have moved, and lie in it.

    Raises ConfigError when it is unreadable, not what a measured case writes, or names a file elsewhere.
    """
    folder = path.parent
    try:
        document = read_json(path)
        if document["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(
                f"{path}: schema_version: expected {SCHEMA_VERSION}, got {document['schema_version']!r}; measure again with this version"
            )
        measurement = CaseMeasurement(
            key=document["key"],
            plan_key=document["plan_key"],
            label=document["label"],
            folder=folder,
            runtime_mode=document["runtime_mode"],
            engine=document["engine"],
            pairs=document["pairs"],
            baseline=document["baseline"],
            planned=document["planned"],
            processes=tuple(record_from_document(record, folder) for record in document["processes"]),
            finished=document.get("finished", True),  # written only when it was, before this key came
            resumed_after=tuple(document.get("resumed_after", ())),
        )
        return as_declared(measurement)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: measurement: expected what a measured case writes, got {err!r}; measure the case again") from err


def record_document(record: ProcessRecord, folder: Path) -> dict[str, Any]:
    """``record`` as JSON, paths relative to ``folder``."""
    return {
        "role": record.role,
        "pair": record.pair,
        "run_id": record.run_id,
        "config_path": None if record.config_path is None else _relative(record.config_path, folder),
        "result": None if record.result is None else _result_document(record.result, folder),
        "rows": [_row_document(row) for row in record.rows],
        "error": record.error,
        "load": record.load,
        "trace": None if record.trace_path is None else _relative(record.trace_path, folder),
    }


def record_from_document(document: dict[str, Any], folder: Path) -> ProcessRecord:
    """Raises ValueError, KeyError, TypeError or AttributeError for what `record_document` does not write."""
    config_path, result, trace = document["config_path"], document["result"], document.get("trace")
    record = ProcessRecord(
        role=document["role"],
        pair=document["pair"],
        run_id=document["run_id"],
        config_path=None if config_path is None else inside(folder, config_path),
        result=None if result is None else _result_from(result, folder),
        rows=tuple(_row_from(row, folder) for row in document["rows"]),
        error=document["error"],
        load=document.get("load"),
        trace_path=None if trace is None else inside(folder, trace),
    )
    return as_declared(record)


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _result_document(result: ProcessResult, folder: Path) -> dict[str, Any]:
    return {
        "argv": list(result.argv),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "seconds": result.seconds,
        "error": result.error,
        "tail": list(result.tail),
        "log_path": _relative(result.log_path, folder),
        "stdout_path": _relative(result.stdout_path, folder),
    }


def _result_from(document: dict[str, Any], folder: Path) -> ProcessResult:
    return ProcessResult(
        argv=tuple(document["argv"]),
        exit_code=document["exit_code"],
        signal=document["signal"],
        seconds=document["seconds"],
        error=document["error"],
        tail=tuple(document["tail"]),
        log_path=inside(folder, document["log_path"]),
        stdout_path=inside(folder, document["stdout_path"]),
    )


def _row_document(row: BenchRow) -> dict[str, Any]:
    """Speeds and lengths stand in the measures and text; they are written for readers that are not this project."""
    return {
        "source": Path(row.source).name,
        "line": row.line,
        "text": dict(row.text),
        "prompt_tokens": row.prompt_tokens,
        "gen_tokens": row.gen_tokens,
        "prefill_tps": _pair(row.prefill_tps),
        "decode_tps": _pair(row.decode_tps),
        "measures": {name: _pair(measure) for name, measure in row.measures.items()},
    }


def _row_from(document: dict[str, Any], folder: Path) -> BenchRow:
    measures = {name: _measure(pair) for name, pair in document["measures"].items()}
    return BenchRow(
        source=str(inside(folder / "logs", document["source"])),
        line=document["line"],
        text=document["text"],
        prompt_tokens=document["prompt_tokens"],
        gen_tokens=document["gen_tokens"],
        prefill_tps=_measure(document["prefill_tps"]),
        decode_tps=_measure(document["decode_tps"]),
        measures={name: measure for name, measure in measures.items() if measure is not None},
    )


def _pair(measure: Measure | None) -> list[float | None] | None:
    return None if measure is None else [measure.mean, measure.sd]


def _measure(pair: list[float | None] | None) -> Measure | None:
    if pair is None:
        return None
    mean, sd = pair
    if mean is None:
        raise ValueError("a measure without a mean")
    return Measure(mean, sd)
