"""What the gates of one case look at: candidate rows, baseline rows, the offline result, and what went wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from h2o_gate_plugin.bench.engine import file_sha256
from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, Role
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.bench_columns import NOT_MEASURED_CELL
from h2o_gate_plugin.declared import whole_number
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.log_scan import LogFacts, scan_log
from h2o_gate_plugin.kv_options import KvValue, engine_values
from h2o_gate_plugin.outside_file import read_json

UNKNOWN_MODE = "unknown"
"""Runtime mode of logs that were made elsewhere."""

RUN_ID_PREFIX = re.compile(r"run_\d+_p\d+_g\d+(?:@[A-Za-z0-9.-]+)?_?")
"""Lengths and prompt file of a run: what rows of one configuration may differ in."""


@dataclass(frozen=True)
class Row:
    """A table row and the process it came from. Rows of one ``configuration`` differ in prompt length, repeat pair or gen length.

    ``kv``: every ``kv_`` value that the process ran with; None where its config is not known. ``repeats``: measured repeats in the
    process; None where not known. ``log``: what its output says; None where there is none.
    ``kv_token_bytes``: of one token's K and V in 16 bits, by the model's own config.json; None where that is not known.
    """

    configuration: str
    run_id: str
    pair: int | None
    bench: BenchRow
    kv: Mapping[str, KvValue] | None = None
    repeats: int | None = None
    log: LogFacts | None = None
    kv_token_bytes: int | None = None

    @property
    def place(self) -> str:
        """``prompt 512 gen 128 (run.log:3)``."""
        lengths = [
            f"{word} {count}" for word, count in (("prompt", self.bench.prompt_tokens), ("gen", self.bench.gen_tokens)) if count is not None
        ]
        at = f"{Path(self.bench.source).name}:{self.bench.line}"
        return f"{' '.join(lengths)} ({at})" if lengths else at

    def mean(self, column: str) -> float | None:
        measure = self.bench.measures.get(column)
        return None if measure is None else measure.mean

    def sd(self, column: str) -> float | None:
        measure = self.bench.measures.get(column)
        return None if measure is None else measure.sd

    def prints(self, column: str) -> bool:
        """Whether the engine's table has the column at all, be it n/a in this row."""
        return column in self.bench.text

    def shows(self, column: str) -> bool:
        return self.bench.text.get(column, NOT_MEASURED_CELL) != NOT_MEASURED_CELL

    def number(self, key: str) -> float:
        """A ``kv_`` number that the process ran with; for rows whose ``kv`` is known."""
        return float((self.kv or {})[key])


@dataclass(frozen=True)
class OfflineEvidence:
    """Ratios of the offline evaluator over one KV dump; None with a ``reason`` when there is no dump or nothing in it to evaluate.

    ``source`` names the dump, and who made it.
    """

    online_sim_ratio: float | None
    upper_bound_ratio: float | None
    source: str
    reason: str | None = None


@dataclass(frozen=True)
class CaseEvidence:
    """``failures``: one line per process that failed or measurement that could not be made.

    ``unfinished``: why these rows are not the last word, of a run that was cut short; None for a finished measurement.
    """

    case_id: str
    runtime_mode: str
    rows: tuple[Row, ...]
    baseline_rows: tuple[Row, ...]
    failures: tuple[str, ...] = ()
    unfinished: str | None = None


OfflineSource = Callable[[], OfflineEvidence]
"""Asked only when the online gate is judged: making a dump starts an engine."""


def configuration_of(record: ProcessRecord, row: BenchRow) -> str:
    """What rows of equal KV values share: a digest of the process's config file.

    Results made elsewhere have none; there it is the part after the lengths of the run id, or of the log's name when that is a run id:
    ``run_0001_p512_g128_k0.3_b32`` → ``k0.3_b32``. Without either all rows are one configuration.
    """
    if record.config_path is not None and record.config_path.is_file():
        return file_sha256(record.config_path)
    for name in (record.run_id, Path(row.source).stem):
        if RUN_ID_PREFIX.match(name):
            return RUN_ID_PREFIX.sub("", name, count=1) or "default"
    return record.run_id


def process_failure(record: ProcessRecord) -> str | None:
    """One line on why this process gave no evidence: what went wrong, exit code or signal, seconds and the log."""
    if record.error is None:
        return None
    return f"{record.role} {record.run_id}: {record.error}"


def evidence_of(case_id: str, measurement: CaseMeasurement) -> CaseEvidence:
    records = measurement.processes
    failures = tuple(line for record in records if (line := process_failure(record)) is not None)
    mode = measurement.runtime_mode or UNKNOWN_MODE
    candidates = with_logs(rows_of(records, "candidate"), records)
    return CaseEvidence(case_id, mode, candidates, rows_of(records, "baseline"), failures, measurement.unfinished)


def rows_of(records: Iterable[ProcessRecord], role: Role) -> tuple[Row, ...]:
    """The rows of the processes of one role that did not fail."""
    return tuple(
        Row(
            configuration_of(record, row),
            record.run_id,
            record.pair,
            row,
            kv=kv_values_of(record),
            repeats=_repeats(record),
            kv_token_bytes=kv_token_bytes(record),
        )
        for record in records
        if record.role == role and record.error is None
        for row in record.rows
    )


def kv_values_of(record: ProcessRecord) -> Mapping[str, KvValue] | None:
    """What the process's config file says, over the engine's defaults; None without one, or with keys that we do not know."""
    if record.config_path is None or not record.config_path.is_file():
        return None
    try:
        document = read_json(record.config_path)
        return engine_values({key: value for key, value in document.items() if key.startswith("kv_")}, str(record.config_path))
    except (OSError, ValueError, AttributeError, ConfigError):
        return None


def kv_token_bytes(record: ProcessRecord) -> int | None:
    """Layers x KV heads x head size x 2 (K and V) x 2 bytes, from ``config.json`` in the base_dir of the process's config."""
    if record.config_path is None:
        return None
    try:
        base_dir = read_json(record.config_path).get("base_dir", "")
        model = read_json(record.config_path.parent / base_dir / "config.json")
        n_head = model["num_attention_heads"]
        head_dim = model.get("head_dim") or model["hidden_size"] // n_head
        sizes = (model["num_hidden_layers"], model.get("num_key_value_heads", n_head), head_dim)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return math.prod((*sizes, 2, 2)) if all(isinstance(size, int) and 0 < size < 2**31 for size in sizes) else None


def _repeats(record: ProcessRecord) -> int | None:
    """The value of -rep in the process's argv."""
    argv = () if record.result is None else record.result.argv
    value = next((after for flag, after in pairwise(argv) if flag == "-rep"), "")
    return whole_number(value)


def with_logs(rows: Iterable[Row], records: Iterable[ProcessRecord]) -> tuple[Row, ...]:
    """``rows`` with what the output of their processes says; read once a process."""
    facts = {
        (record.run_id, record.pair): scan_log(record.result.stdout_path, record.result.log_path)
        for record in records
        if record.role == "candidate" and record.result is not None
    }
    return tuple(replace(row, log=facts.get((row.run_id, row.pair))) for row in rows)


def without_measurement(case_id: str, runtime_mode: str, reason: str) -> CaseEvidence:
    return CaseEvidence(case_id, runtime_mode, (), (), (reason,))
