"""Measurements that lie on disk: kept artifacts of this suite, llm_bench logs, or a CSV made elsewhere. Starts no engine."""

from __future__ import annotations

from pathlib import Path

from h2o_gate_plugin.bench.measurement import MEASUREMENT_FILE, CaseMeasurement, ProcessRecord, Role, load_measurement
from h2o_gate_plugin.bench.metrics_csv import read_metrics_csv
from h2o_gate_plugin.bench.table import BenchRow, parse_log
from h2o_gate_plugin.declared import whole_number
from h2o_gate_plugin.errors import ConfigError

FOREIGN_ENGINE = "unknown"


def load_measurements(folder: Path) -> tuple[CaseMeasurement, ...]:
    """Every measurement under ``folder``, by the first of these that is there:

    measurement.json files of this suite (any depth); llm_bench logs (``*.log``, in the folder or its ``logs``); CSVs (``*.csv``).
    A log or a CSV is one case, its label the file's stem, its rows candidates; a CSV's ``case`` and ``role`` columns are heeded.
    ``folder`` may also be one log or one CSV. Raises ConfigError when nothing is there, TableError for a log or CSV that is bad.
    """
    if folder.is_file():
        return _csv(folder) if folder.suffix == ".csv" else (_log(folder),)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: kept results: expected a folder, got no such folder; check --h2o-from")
    kept = sorted(folder.rglob(MEASUREMENT_FILE))
    if kept:
        return tuple(load_measurement(path) for path in kept)
    logs = sorted([*folder.glob("*.log"), *folder.glob("logs/*.log")])
    if logs:
        return tuple(_log(path) for path in logs)
    tables = sorted(folder.glob("*.csv"))
    if tables:
        return tuple(case for path in tables for case in _csv(path))
    raise ConfigError(f"{folder}: kept results: expected {MEASUREMENT_FILE} files, *.log files or a *.csv, got none; check --h2o-from")


def _log(path: Path) -> CaseMeasurement:
    return _foreign(path.stem, path, (_record("candidate", path.stem, parse_log(path)),))


def _csv(path: Path) -> tuple[CaseMeasurement, ...]:
    cases: dict[str, list[ProcessRecord]] = {}
    for row in read_metrics_csv(path):
        name = row.text.get("case") or path.stem
        role = row.text.get("role") or "candidate"
        if role not in ("baseline", "candidate"):
            raise ConfigError(f"{path}: role: expected baseline or candidate, got {role!r}; repair the file")
        known: Role = "baseline" if role == "baseline" else "candidate"
        cases.setdefault(name, []).append(_record(known, row.text.get("run_id") or name, (row,), row.text.get("pair", "")))
    return tuple(_foreign(name, path, tuple(records)) for name, records in cases.items())


def _record(role: Role, run_id: str, rows: tuple[BenchRow, ...], pair: str = "") -> ProcessRecord:
    return ProcessRecord(role, whole_number(pair), run_id, None, None, rows, None)


def _foreign(label: str, path: Path, records: tuple[ProcessRecord, ...]) -> CaseMeasurement:
    """Nothing is known of how it was run: no mode, no key but the file's own name."""
    pairs = max((record.pair or 1 for record in records), default=1)
    baseline = any(record.role == "baseline" for record in records)
    key = f"{path.name}:{label}"
    return CaseMeasurement(key, key, label, path.parent, None, FOREIGN_ENGINE, pairs, baseline, len(records), records)
