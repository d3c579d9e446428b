"""From what was judged to the report, and the report's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.host import host_facts
from h2o_gate_plugin.bench.measurement import OFFLINE_FILE, CaseMeasurement
from h2o_gate_plugin.bench.metrics_csv import write_metrics_csv
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.gates.evidence import process_failure
from h2o_gate_plugin.gates.notes import notes_on
from h2o_gate_plugin.gates.result import GATE_NAMES, GateName, GateResult
from h2o_gate_plugin.gates.verdict import combine, overall_pass
from h2o_gate_plugin.report.markdown import markdown
from h2o_gate_plugin.report.model import MARKDOWN_FILE, METRICS_FILE, PAGE_FILE, SUMMARY_FILE, CaseReport, FailedProcess, Report
from h2o_gate_plugin.report.page import page
from h2o_gate_plugin.report.summary_json import summary_text
from h2o_gate_plugin.session.cases import GateCase, prompt_notes
from h2o_gate_plugin.session.drawn import case_artifacts, run_artifacts, run_reports
from h2o_gate_plugin.session.measuring import AcceptanceSession
from h2o_gate_plugin.session.offline import load_offline

Judged = Mapping[str, Mapping[GateName, GateResult]]
"""Case id → gate → result."""


def build_report(
    session: AcceptanceSession,
    cases: Sequence[GateCase],
    judged: Judged,
    interrupted: str | None,
    started_utc: str,
    seconds: float,
    packs: tuple[str, ...] = (),
    resume: str = "",
) -> Report:
    """``cases``: all cases of all packs, in order; those without a judged gate stay out of the report.

    ``packs``: what was asked for, where not one case was judged. ``resume``: what goes on with the run, told where it was cut short.
    """
    reported = tuple(_case_report(session, case, judged[case.id]) for case in cases if case.id in judged)
    packs = tuple(dict.fromkeys(case.pack for case in reported)) or packs
    unfinished = _unfinished(session, cases, packs)
    reasons = (interrupted, _incomplete(cases, reported, packs), *unfinished)
    incomplete = "; ".join(reason for reason in reasons if reason) or None
    offline = session.out_dir / OFFLINE_FILE
    record = load_offline(offline) if offline.is_file() else None
    return Report(
        overall_pass=combine((case.overall_pass for case in reported), complete=incomplete is None),
        incomplete=incomplete,
        pack="+".join(packs),
        engine=_engine_object(session, cases),
        host=host_facts(),
        cases=reported,
        offline={} if record is None else {"upper_bound": record.upper_bound, "online_sim": record.online_sim},
        settings=_settings_table(session),
        out_dir=session.out_dir,
        kept_in=session.settings.from_dir or session.out_dir,
        started_utc=started_utc,
        seconds=seconds,
        artifacts=run_artifacts(session.out_dir, session.settings.from_dir or session.out_dir, any(case.rows for case in reported)),
        resume=resume if resume and (interrupted or unfinished) and session.engine is not None else None,
    )


def _unfinished(session: AcceptanceSession, cases: Sequence[GateCase], packs: Sequence[str]) -> tuple[str, ...]:
    """The cases of which only a part was measured, and how much."""
    of_packs = ((case.id, session.known(case)) for case in cases if case.pack in packs)
    return tuple(f"{case_id}: {known.unfinished}" for case_id, known in of_packs if known is not None and known.unfinished)


def _settings_table(session: AcceptanceSession) -> tuple[tuple[str, str, str], ...]:
    """As the settings, with the folder that was chosen where none was given."""
    rows = session.settings.as_table()
    return tuple((flag, str(session.out_dir) if flag == "--h2o-out" else value, origin) for flag, value, origin in rows)


def _case_report(session: AcceptanceSession, case: GateCase, judged: Mapping[GateName, GateResult]) -> CaseReport:
    gates = tuple(judged[name] for name in GATE_NAMES if name in judged)
    measurement = session.known(case)
    evidence = session.known_evidence(case)
    return CaseReport(
        id=case.id,
        case=case.case,
        run=case.run,
        pack=case.pack,
        runtime_mode=case.planned_mode if evidence is None else evidence.runtime_mode,
        overall_pass=overall_pass(gates),
        gates=gates,
        rows=() if measurement is None else measurement.rows(),
        notes=() if evidence is None else (*prompt_notes(case), *_part_notes(measurement), *notes_on(evidence, gates)),
        failures=() if measurement is None else _failed_processes(measurement),
        folder=None if measurement is None else measurement.folder,
        logs=() if measurement is None else candidate_logs(measurement),
        measured_runs=()
        if measurement is None or evidence is None
        else run_reports(measurement, evidence, session.limits(case, measurement.engine)),
        artifacts=() if measurement is None else case_artifacts(measurement),
    )


def _part_notes(measurement: CaseMeasurement | None) -> tuple[str, ...]:
    """Pairs of one part ran on the machine as it was then; who reads their speeds should know that there was another."""
    if measurement is None or not measurement.resumed_after:
        return ()
    counts = ", then ".join(map(str, measurement.resumed_after))
    return (f"measured in {len(measurement.resumed_after) + 1} parts: cut short, and gone on with {counts} processes kept",)


def _failed_processes(measurement: CaseMeasurement) -> tuple[FailedProcess, ...]:
    failed = [(process_failure(record), record.result) for record in measurement.processes]
    return tuple(
        FailedProcess(line, result.ending, result.argv, result.seconds, result.tail, result.stdout_path)
        for line, result in failed
        if line is not None and result is not None
    )


def candidate_logs(measurement: CaseMeasurement) -> tuple[str, ...]:
    """Logs of the candidate processes in the order they ran, failed ones first: that is where a reader wants to look."""
    ordered = sorted((record for record in measurement.processes if record.role == "candidate"), key=lambda record: record.error is None)
    logs = [
        str(record.result.log_path if record.error is None else record.result.stdout_path) if record.result is not None else row.source
        for record in ordered
        for row in (record.rows or (_NO_ROW,))
    ]
    return tuple(dict.fromkeys(log for log in logs if log))


_NO_ROW = BenchRow("", 0, {}, None, None, None, None, {})


def _incomplete(cases: Sequence[GateCase], reported: Sequence[CaseReport], packs: Sequence[str]) -> str | None:
    judged = {case.id for case in reported}
    for pack in packs:
        of_pack = [case.id for case in cases if case.pack == pack]
        missing = [case_id for case_id in of_pack if case_id not in judged]
        if missing:
            return f"{len(of_pack) - len(missing)} of {len(of_pack)} cases of the pack {pack} were judged"
    for case in reported:
        names = {gate.name for gate in case.gates}
        if names != set(GATE_NAMES):
            return f"only {', '.join(name for name in GATE_NAMES if name in names)} of {case.id} was judged"
        if not any(gate.enabled for gate in case.gates):
            return f"every gate of {case.id} is off"
    return None


def _engine_object(session: AcceptanceSession, cases: Sequence[GateCase]) -> dict[str, Any]:
    if session.engine is not None:
        engine = session.engine
        return {"name": engine.name, "argv": list(engine.argv), "sha256": engine.sha256, "model_config": str(engine.base_config)}
    names = {measurement.engine for case in cases if (measurement := session.known(case)) is not None}
    return {"name": ", ".join(sorted(names)) or "unknown", "argv": None, "sha256": None, "model_config": None}


def write_report(session: AcceptanceSession, cases: Sequence[GateCase], report: Report) -> None:
    """summary.md, h2o_metrics.csv and report.html first, summary.json last: who finds it finds a finished run."""
    out_dir = report.out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / MARKDOWN_FILE, markdown(report))
    _write_metrics(session, cases, report, out_dir / METRICS_FILE)
    write_atomic(out_dir / PAGE_FILE, page(report, Path.cwd()))
    write_atomic(out_dir / SUMMARY_FILE, summary_text(report))


def _write_metrics(session: AcceptanceSession, cases: Sequence[GateCase], report: Report, path: Path) -> None:
    """Candidate and baseline rows; the columns case, role, run_id and pair let --h2o-from gate the file alone."""
    reported = {case.id for case in report.cases}
    rows, tags = [], []
    for case in cases:
        measurement = session.known(case) if case.id in reported else None
        for record in measurement.processes if measurement is not None else ():
            for row in record.rows:
                rows.append(row)
                pair = "" if record.pair is None else str(record.pair)
                tags.append({"case": case.id, "role": record.role, "run_id": record.run_id, "pair": pair})
    if rows:
        write_metrics_csv(path, rows, tags)
