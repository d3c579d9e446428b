"""A finished gate run goes into the history; what goes wrong there is told in one line and changes no verdict."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from h2o_gate_plugin import __version__
from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.bench.host import host_fingerprint
from h2o_gate_plugin.bench.measurement import CaseMeasurement
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.history.database import add_run, history_file
from h2o_gate_plugin.history.run import KeptRow, run_from_summary
from h2o_gate_plugin.report.model import Report
from h2o_gate_plugin.report.summary_json import summary_object
from h2o_gate_plugin.session.cases import GateCase
from h2o_gate_plugin.session.measuring import AcceptanceSession


def record_run(
    session: AcceptanceSession,
    cases: Iterable[GateCase],
    report: Report,
    revision: Revision,
    cwd: Path,
    earlier_parts: Sequence[str] = (),
) -> str | None:
    """Keep what was measured and judged; None, or the line that says why it could not be kept.

    Artifacts judged again are no new measurement and are not recorded. A run that went on takes the place of its ``earlier_parts``: their
    rows are among its own.
    """
    engine = session.engine
    if engine is None:
        return None
    path = history_file(session.settings.history_dir, cwd)
    reported = {case.id for case in report.cases}
    known = {case.id: session.known(case) for case in cases if case.id in reported}
    measured = {kept.plan_key: kept for kept in known.values() if kept is not None}
    stamp = f"{report.started_utc.translate(str.maketrans('', '', '-:'))}-"
    run = run_from_summary(
        report.out_dir.name if report.out_dir.name.startswith(stamp) else f"{stamp}{report.pack}",
        report.out_dir.absolute(),
        summary_object(report),
        Origin(host_fingerprint(report.host), engine.sha256, engine.config_sha256),
        {case_id: None if kept is None else kept.plan_key for case_id, kept in known.items()},
        revision,
        __version__,
        tuple(row for kept in measured.values() for row in _rows(kept)),
    )
    try:
        add_run(path, run, earlier_parts)
    except (H2oGateError, OSError, sqlite3.Error, UnicodeError) as err:  # a folder's name may be no UTF-8
        told = str(err) if isinstance(err, H2oGateError) else f"{path}: history: expected to keep this run, got {err!r}"
        return f"{told}; the verdict stands, the run is not in the history"
    return None


def _rows(measurement: CaseMeasurement) -> Iterable[KeptRow]:
    """Of a baseline only the speeds: its other figures are those of KV features that are off."""
    for record in measurement.processes:
        for row in record.rows if record.error is None else ():
            yield KeptRow(
                measurement.plan_key,
                record.role,
                record.run_id,
                record.pair,
                row.prompt_tokens,
                row.gen_tokens,
                row.text.get("backend", ""),
                row.text.get("threads", ""),
                _numbers(row, record.role == "baseline"),
            )


def _numbers(row: BenchRow, speeds_only: bool) -> dict[str, float]:
    speeds = {"prefill_tps": row.prefill_tps, "decode_tps": row.decode_tps}
    measures = speeds if speeds_only else {**speeds, **row.measures}
    return {name: measure.mean for name, measure in measures.items() if measure is not None}
