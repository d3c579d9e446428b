"""What the report's pictures draw and its links lead to: speeds of pairs, traces, files that are really there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from h2o_gate_plugin.bench.measurement import MANIFEST_FILE, MEASUREMENT_FILE, OFFLINE_FILE, CaseMeasurement, ProcessRecord
from h2o_gate_plugin.bench.trace import InstanceTrace, read_trace
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.decode_drop import PromptDrop, estimate_drop
from h2o_gate_plugin.gates.decode_gate import decide_drop
from h2o_gate_plugin.gates.evidence import CaseEvidence
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.report.model import MARKDOWN_FILE, METRICS_FILE, SUMMARY_FILE, Artifact, RunReport, SpeedPair, SpeedPairs

WRITTEN_WITH_THE_PAGE = (MARKDOWN_FILE, SUMMARY_FILE)
"""Not there yet when the page is made, but always there beside it; so is METRICS_FILE where a row was measured."""
OTHER_FILES = (OFFLINE_FILE, "progress.jsonl", "dump/dump.json", "dump/kv")


def run_reports(measurement: CaseMeasurement, evidence: CaseEvidence, limits: Limits) -> tuple[RunReport, ...]:
    """One for each run that has a candidate process, in the order measured; pairs as the decode gate judges them."""
    drops = estimate_drop(evidence.rows, evidence.baseline_rows, limits.decode_baseline).drops
    first: dict[str, ProcessRecord] = {}
    for record in measurement.processes:
        if record.role == "candidate":
            first.setdefault(record.run_id, record)
    return tuple(_run_report(record, measurement.engine, drops, limits) for record in first.values())


def _run_report(record: ProcessRecord, engine: str, drops: Sequence[PromptDrop], limits: Limits) -> RunReport:
    drop = next((drop for drop in drops if any(row.run_id == record.run_id for row in drop.rows)), None)
    row = record.rows[0] if record.rows else None
    trace, gap = _trace(record, engine)
    return RunReport(
        run_id=record.run_id,
        prompt_tokens=None if row is None else row.prompt_tokens,
        gen_tokens=None if row is None else row.gen_tokens,
        speeds=None if drop is None else _speeds(drop, limits),
        trace=trace,
        trace_gap=gap,
        artifacts=_run_artifacts(record),
    )


def _speeds(prompt: PromptDrop, limits: Limits) -> SpeedPairs:
    decision = decide_drop(prompt, limits)
    pairs = tuple(
        SpeedPair(row.pair or number, row.bench.decode_tps.mean / math.exp(ratio), row.bench.decode_tps.mean)
        for number, (ratio, row) in enumerate(zip(prompt.log_ratios, prompt.rows, strict=True), 1)
        if row.bench.decode_tps is not None
    )
    if decision is None:
        return SpeedPairs(pairs, prompt.drop, None, None, limits.max_decode_drop)
    return SpeedPairs(pairs, decision.drop, decision.least, decision.most, limits.max_decode_drop)


def _trace(record: ProcessRecord, engine: str) -> tuple[InstanceTrace | None, str | None]:
    """The suite asks for one instance a process; a file that cannot be read, or holds none, is named."""
    if record.trace_path is None:
        return None, f"{engine} wrote no trace (docs/engine.md, H2O_BENCH_TRACE)"
    try:
        instances = read_trace(record.trace_path)
    except ConfigError as err:
        return None, str(err)
    if not instances:
        return None, f"{record.trace_path}: trace: no instance in it"
    if not instances[0].agrees:
        return None, "the traced pass ended with other tokens, kept positions or KV bytes than the timed ones"
    return instances[0], None


def _run_artifacts(record: ProcessRecord) -> tuple[Artifact, ...]:
    result = record.result
    files = (
        ("config", record.config_path),
        ("log", None if result is None else result.log_path),
        ("output", None if result is None else result.stdout_path),
        ("trace", record.trace_path),
    )
    return tuple(Artifact(name, path) for name, path in files if path is not None and path.exists())


def case_artifacts(measurement: CaseMeasurement) -> tuple[Artifact, ...]:
    folder = measurement.folder
    found = [Artifact(name, folder / name) for name in (MEASUREMENT_FILE, MANIFEST_FILE)]
    found.append(Artifact("all files of the case", folder))
    return tuple(artifact for artifact in found if artifact.path.exists())


def run_artifacts(out_dir: Path, kept_in: Path, measured: bool) -> tuple[Artifact, ...]:
    """``kept_in``: where the dump lies, when kept artifacts are judged; ``measured``: whether there is a row."""
    written = (*WRITTEN_WITH_THE_PAGE, *((METRICS_FILE,) if measured else ()))
    others = [Artifact(name, (kept_in if name.startswith("dump/") else out_dir) / name) for name in OTHER_FILES]
    return (*(Artifact(name, out_dir / name) for name in written), *(artifact for artifact in others if artifact.path.exists()))
