"""Measure or look up the cases of one session; nothing is measured twice, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from h2o_gate_plugin.bench.dump import measure_dump
from h2o_gate_plugin.bench.engine import Engine, embedded_engine, external_engine
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.measurement import OFFLINE_FILE, CaseMeasurement, ProcessRecord
from h2o_gate_plugin.bench.preset import DEFAULT_BACKEND, DEFAULT_THREADS
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.run_plan import case_key, plan, plan_key
from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.files import not_written
from h2o_gate_plugin.gates.baseline import FixedBaseline
from h2o_gate_plugin.gates.decode_gate import undecided
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, evidence_of, rows_of, without_measurement
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.options import Settings
from h2o_gate_plugin.progress import Position
from h2o_gate_plugin.session.baseline import decode_baseline
from h2o_gate_plugin.session.cases import GateCase, refuse_engine_without_prompts
from h2o_gate_plugin.session.offline import OfflineRecord, evaluate_dump, load_offline, save_offline

CASES_FOLDER = "cases"
DUMP_FOLDER = "dump"
DUMP_TITLE = "KV dump for the offline evaluator"
Report = Callable[[Position, ProgressEvent], None]


def chosen_engine(settings: Settings) -> Engine | None:
    """None when kept artifacts are gated. Raises ConfigError for a binary or model config that cannot be used."""
    if settings.from_dir is not None:
        return None
    if settings.llm_bench is None:
        return embedded_engine(settings.model_config)
    return external_engine(settings.llm_bench, settings.model_config or Path(), settings.prompt_command)


class AcceptanceSession:
    """The measurements of one test session, in ``out_dir``, where other workers find them too.

    ``plan_for``: what to measure is fixed once the selected tests are known: whether decode needs a baseline, whether a dump is needed.
    """

    def __init__(self, settings: Settings, engine: Engine | None, out_dir: Path, report: Report) -> None:
        self.settings = settings
        self.engine = engine
        self.out_dir = out_dir
        self._report = report
        self._baseline = self._paired = True
        self._cases: tuple[GateCase, ...] = ()
        self._positions: dict[str, Position] = {}
        self._measurements: dict[str, CaseMeasurement | H2oGateError] = {}
        self._evidence: dict[str, CaseEvidence] = {}
        self._kept: dict[str, CaseMeasurement] | None = None
        self._offline: OfflineRecord | None = None

    @cached_property
    def decode_baseline(self) -> FixedBaseline | None:
        """None: measured in the same batch. Raises ConfigError for one that cannot be used, of another host say."""
        return decode_baseline(self.settings, self.engine, Path.cwd())

    def limits(self, case: GateCase, engine: str | None = None) -> Limits:
        """Of ``case``, with the decode baseline. ``engine``: the name of the one that was measured, or will be."""
        return replace(case.limits(self.settings, engine), decode_baseline=self.decode_baseline)

    def plan_for(self, cases: Sequence[GateCase], decode: bool, online: bool, resident: bool) -> None:
        """``cases`` selected, in order; ``decode``, ``online``, ``resident``: whether a selected test judges these gates.

        The decode gate needs pairs; for the peak of memory alone one baseline process a run will do, where that evidence is required.
        Raises ConfigError for cases of prompt files with an engine that is not told of them.
        """
        refuse_engine_without_prompts(self.settings, cases)
        self._cases = tuple(cases)
        self._paired = decode and self.settings.decode_baseline is None and self.settings.max_decode_drop is not None
        name = None if self.engine is None else self.engine.name
        self._baseline = self._paired or (resident and any("resident_pass" in self.limits(case, name).require_evidence for case in cases))
        if self.engine is None:
            return
        distinct: dict[str, GateCase] = {}
        for case in cases:
            if case.plan is not None:
                distinct.setdefault(case_key(self.engine, case.plan), case)
        dumps = online and self.settings.dump_dir is None and self.settings.min_online_lossless is not None
        total = sum(len(plan(case.plan, self._pairs, self._baseline)) for case in distinct.values() if case.plan) + dumps
        for index, (key, case) in enumerate(distinct.items(), 1):
            self._positions[key] = Position(case.id, index, len(distinct), total)
        self._positions[DUMP_TITLE] = Position(DUMP_TITLE, 0, len(distinct), total)

    @property
    def _pairs(self) -> int:
        """Of the first look."""
        return self.settings.decode_pairs if self._paired else 1

    def measurement(self, case: GateCase) -> CaseMeasurement:
        """Measured now, or before, or kept. Raises H2oGateError, the same one each time it is asked."""
        if case.id not in self._measurements:
            try:
                self._measurements[case.id] = self._measure(case)
            except H2oGateError as err:
                self._measurements[case.id] = err
            except OSError as err:
                self._measurements[case.id] = not_written(Path(err.filename or self.out_dir), err)
        found = self._measurements[case.id]
        if isinstance(found, H2oGateError):
            raise found
        return found

    def known(self, case: GateCase) -> CaseMeasurement | None:
        """The measurement if this session, one of its workers or --h2o-from has it; never measures."""
        found = self._measurements.get(case.id, case.measurement)
        if isinstance(found, CaseMeasurement):
            return found
        try:
            return self._kept_measurement(case, self.settings.from_dir or self.out_dir / CASES_FOLDER)
        except H2oGateError:
            return None

    def evidence(self, case: GateCase) -> CaseEvidence:
        """The case's evidence, read once; what could not be measured is evidence with a failure, so that its gates say why."""
        if case.id not in self._evidence:
            try:
                self._evidence[case.id] = evidence_of(case.id, self.measurement(case))
            except H2oGateError as err:
                self._evidence[case.id] = without_measurement(case.id, case.planned_mode, str(err))
        return self._evidence[case.id]

    def known_evidence(self, case: GateCase) -> CaseEvidence | None:
        """As `evidence`, for a case that `known` knows; else None."""
        measurement = self.known(case)
        if measurement is None:
            return None
        if case.id not in self._evidence:
            self._evidence[case.id] = evidence_of(case.id, measurement)
        return self._evidence[case.id]

    def _measure(self, case: GateCase) -> CaseMeasurement:
        if case.measurement is not None:
            return case.measurement
        if self.engine is None or case.plan is None:
            return self._kept_measurement(case, self.settings.from_dir or self.out_dir)
        position = self._positions.get(case_key(self.engine, case.plan), Position(case.id, 1, 1, 1))

        def progress(event: ProgressEvent) -> None:
            self._report(position, event)

        limits = self.limits(case)

        def another_pair(records: tuple[ProcessRecord, ...]) -> bool:
            measured_s = sum(record.result.seconds for record in records if record.result is not None)
            return undecided(rows_of(records, "candidate"), rows_of(records, "baseline"), measured_s, limits)

        return measure_case(
            self.engine,
            case.plan,
            self.out_dir / CASES_FOLDER,
            pairs=self._pairs,
            baseline=self._baseline,
            timeout_s=self.settings.case_timeout_s,
            progress=progress,
            max_pairs=max(self.settings.decode_pairs, self.settings.decode_max_pairs) if self._paired else 1,
            undecided=another_pair,
        )

    def _kept_measurement(self, case: GateCase, source: Path) -> CaseMeasurement:
        if case.plan is None:
            raise H2oGateError(f"{source}: {case.id}: expected a case of a pack, got one without a plan")
        if self._kept is None:
            self._kept = {measurement.plan_key: measurement for measurement in load_measurements(source)}
        found = self._kept.get(plan_key(case.plan))
        if found is None:
            raise H2oGateError(f"{source}: {case.id}: expected a kept measurement of this case, got none; run it without --h2o-from")
        return found

    def offline_record(self) -> OfflineRecord:
        """Once per session and out_dir: kept, from --dump-dir, or over a dump that the engine makes."""
        if self._offline is None:
            kept = None if self.settings.from_dir is None else self.settings.from_dir / OFFLINE_FILE
            own = self.out_dir / OFFLINE_FILE
            self.out_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(self.out_dir / "offline.lock"):
                if own.is_file():
                    self._offline = load_offline(own)
                else:
                    self._offline = load_offline(kept) if kept is not None and kept.is_file() else self._evaluate()
                    save_offline(self._offline, own)
        return self._offline

    def offline(self) -> OfflineEvidence:
        try:
            return self.offline_record().evidence()
        except H2oGateError as err:
            return OfflineEvidence(None, None, "no dump", str(err))
        except OSError as err:
            return OfflineEvidence(None, None, "no dump", str(not_written(Path(err.filename or self.out_dir), err)))

    def _evaluate(self) -> OfflineRecord:
        given = self.settings.dump_dir
        if given is not None:
            return evaluate_dump(given, f"dump {given} ({self.settings.origins['dump_dir']})")
        if self.engine is None:
            return OfflineRecord("no dump", f"{self.settings.from_dir} keeps no offline result; add --dump-dir DIR", None, None)
        plans = [case.plan.preset for case in self._cases if case.plan is not None]
        dump = measure_dump(
            self.engine,
            self.out_dir / DUMP_FOLDER,
            prompt=max((max(preset.prompts) for preset in plans), default=1024),
            gen=max((max(preset.gens) for preset in plans), default=128),
            backend=next((preset.backend for preset in plans if preset.backend), DEFAULT_BACKEND),
            threads=next((preset.threads for preset in plans if preset.threads), DEFAULT_THREADS),
            timeout_s=self.settings.case_timeout_s,
            progress=lambda event: self._report(self._positions.get(DUMP_TITLE, Position(DUMP_TITLE, 0, 1, 1)), event),
        )
        source = f"dump made by the {self.engine.name} engine"
        if dump.folder is None:
            return OfflineRecord(source, dump.reason or "the engine made no dump", None, None)
        kinds = {row.text.get("prompt_kind") for row in dump.record.rows}
        if "constant" in kinds:
            source += " from a constant-token prompt"
        elif kinds != {"text"}:
            source += ", prompt kind not told"
        return evaluate_dump(dump.folder, source)
