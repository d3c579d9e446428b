"""summary.json, schema version 1; ``summary.schema.json`` beside this file describes every key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.table import BenchRow, Measure
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.report.model import SCHEMA_VERSION, CaseReport, Report, failure_lines, short_path
from h2o_gate_plugin.report.outcome import outcome

SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")


def summary_object(report: Report) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "overall_pass": report.overall_pass,
        "outcome": outcome(report),
        "incomplete": report.incomplete,
        "resume": report.resume,
        "pack": report.pack,
        "engine": dict(report.engine),
        "host": dict(report.host),
        "cases": [_case_object(case, report.out_dir) for case in report.cases],
        "offline": {name: report.offline.get(name) for name in ("upper_bound", "online_sim")},
        "failures": [line for case in report.cases for line in failure_lines(case, report.out_dir)],
        "notes": [{"case": case.id, "note": note} for case in report.cases for note in case.notes],
        "settings": {flag: {"value": value, "origin": origin} for flag, value, origin in report.settings},
        "started_utc": report.started_utc,
        "seconds": round(report.seconds, 3),
    }


def summary_text(report: Report) -> str:
    return json.dumps(summary_object(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _case_object(case: CaseReport, out_dir: Path) -> dict[str, Any]:
    return {
        "id": case.id,
        "case": case.case,
        "run": case.run,
        "runtime_mode": case.runtime_mode,
        "overall_pass": case.overall_pass,
        "rows": [row_object(row) for row in case.rows],
        "gates": [gate_object(gate) for gate in case.gates],
        "artifacts": {
            "folder": None if case.folder is None else short_path(case.folder, out_dir),
            "logs": [short_path(Path(log), out_dir) for log in case.logs],
        },
    }


def gate_object(gate: GateResult) -> dict[str, Any]:
    return {
        "name": gate.name,
        "status": gate.status,
        "value": _finite(gate.value),
        "limit": gate.limit,
        "unit": gate.unit,
        "direction": gate.direction,
        "aggregation": gate.aggregation,
        "source": gate.source,
        "limit_origin": gate.limit_origin,
        "reason": gate.reason,
        "confidence": gate.confidence,
        "criteria": [asdict(criterion) for criterion in gate.criteria],
    }


def row_object(row: BenchRow) -> dict[str, Any]:
    return {
        "source": row.source,
        "line": row.line,
        "prompt_tokens": row.prompt_tokens,
        "gen_tokens": row.gen_tokens,
        "prefill_tps": _measure_object(row.prefill_tps),
        "decode_tps": _measure_object(row.decode_tps),
        "prompt_kind": row.text.get("prompt_kind"),
        "measures": {name: _measure_object(measure) for name, measure in row.measures.items()},
    }


def _measure_object(measure: Measure | None) -> Mapping[str, float | None] | None:
    return None if measure is None else {"mean": _finite(measure.mean), "sd": _finite(measure.sd)}


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN; a figure that is none reads as not measured."""
    return value if value is not None and math.isfinite(value) else None
