"""What the gates of one case look at: candidate rows, baseline rows, the offline result, and what went wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.engine import file_sha256
from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, Role
from h2o_gate_plugin.bench.table import BenchRow

UNKNOWN_MODE = "unknown"
"""Runtime mode of logs that were made elsewhere."""

RUN_ID_PREFIX = re.compile(r"run_\d+_p\d+_g\d+_?")


@dataclass(frozen=True)
class Row:
    """A table row and the process it came from. Rows of one ``configuration`` differ in prompt length, repeat pair or gen length."""

    configuration: str
    run_id: str
    pair: int | None
    bench: BenchRow

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
    """``failures``: one line per process that failed or measurement that could not be made."""

    case_id: str
    runtime_mode: str
    rows: tuple[Row, ...]
    baseline_rows: tuple[Row, ...]
    failures: tuple[str, ...] = ()


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
    return CaseEvidence(case_id, mode, rows_of(records, "candidate"), rows_of(records, "baseline"), failures)


def rows_of(records: Iterable[ProcessRecord], role: Role) -> tuple[Row, ...]:
    """The rows of the processes of one role that did not fail."""
    return tuple(
        Row(configuration_of(record, row), record.run_id, record.pair, row)
        for record in records
        if record.role == role and record.error is None
        for row in record.rows
    )


def without_measurement(case_id: str, runtime_mode: str, reason: str) -> CaseEvidence:
    return CaseEvidence(case_id, runtime_mode, (), (), (reason,))
