"""Which cases there are to gate: those of the packs, or those of logs and tables made elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from h2o_gate_plugin.bench.kept import FOREIGN_ENGINE, load_measurements
from h2o_gate_plugin.bench.measurement import CaseMeasurement
from h2o_gate_plugin.bench.pack import PACKS, PackCase, load_pack
from h2o_gate_plugin.bench.preset import load_preset
from h2o_gate_plugin.bench.prompt_command import EXAMPLE
from h2o_gate_plugin.bench.prompt_set import load_prompt_set, own_prompt_set, prompt_tokens, sample
from h2o_gate_plugin.bench.run_plan import configs_of
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.evidence import RUN_ID_PREFIX, UNKNOWN_MODE
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.reach import refuse_unreachable
from h2o_gate_plugin.kv_options import KV_OPTIONS
from h2o_gate_plugin.options import Settings

SINGLE_PACK = "runtime"
"""The pack whose one case --preset and --runtime-mode may change, and under which logs made elsewhere are gated."""

CASE_OPTIONS = ("preset", "runtime_mode", "threads", "backend")
"""They change what a case runs; beside --h2o-from they say which kept case is meant."""


@dataclass(frozen=True)
class GateCase:
    """``plan`` is what to measure; None for a ``measurement`` made elsewhere."""

    id: str
    pack: str
    case: str
    run: int
    budgets: Mapping[str, float | None]
    plan: PackCase | None = None
    measurement: CaseMeasurement | None = field(default=None, repr=False)

    def limits(self, settings: Settings, engine: str | None = None) -> Limits:
        """``engine``: the name of the one that was measured, or will be."""
        return settings.limits_for(self.id, self.pack, self.budgets, engine)

    @property
    def planned_mode(self) -> str:
        """The lossless runtime mode as the pack or preset asks for it."""
        if self.plan is None:
            return UNKNOWN_MODE
        key = "kv_lossless_runtime_mode"
        swept = self.plan.preset.values.get(key, (KV_OPTIONS[key].suite_default,))
        return str(self.plan.overrides.get(key, "+".join(map(str, swept))))


def load_cases(settings: Settings) -> tuple[GateCase, ...]:
    """Every case of every pack, in order, with the user's preset, mode, threads and backend; or the foreign ones of --h2o-from.

    Raises ConfigError for a pack, preset or folder that cannot be used.
    """
    foreign = _foreign_cases(settings)
    if foreign:
        return foreign
    return with_prompts(tuple(_adapted(case, settings) for pack in _packs(settings) for case in load_pack(pack)), settings)


def _packs(settings: Settings) -> tuple[str | Path, ...]:
    """Names of those that ship, files of the user's own: as `Settings.pack_names` has them."""
    return (*PACKS, *settings.packs)


def with_prompts(cases: tuple[GateCase, ...], settings: Settings) -> tuple[GateCase, ...]:
    """Cases of a bucket with the sampled prompt files of that bucket, at the length that the context leaves them.

    Raises ConfigError for a prompt set that cannot be read or has not what every bucket asks for.
    """
    buckets = tuple(sorted({case.plan.bucket for case in cases if case.plan is not None and case.plan.bucket is not None}))
    if not buckets:
        return cases
    prompts = load_prompt_set(settings.prompts or own_prompt_set(), settings.origins["prompts"])
    chosen = sample(prompts, buckets, settings.prompts_per_bucket, settings.prompts_seed)

    def placed(case: GateCase) -> GateCase:
        if case.plan is None or case.plan.bucket is None:
            return case
        preset = case.plan.preset
        length = prompt_tokens(case.plan.bucket, max(preset.gens), prompts.context_tokens or preset.context_tokens)
        return replace(case, plan=replace(case.plan, preset=replace(preset, prompts=(length,)), prompt_files=chosen[case.plan.bucket]))

    return tuple(placed(case) for case in cases)


def refuse_unused_prompts(settings: Settings, cases: Iterable[GateCase]) -> None:
    """Typed options of a prompt set that no case reads would look as if they had been heeded. Raises ConfigError."""
    typed = [name for name in ("prompts", "prompts_per_bucket", "prompts_seed") if settings.origins[name].startswith("command line")]
    if typed and not any(case.plan is not None and case.plan.prompt_files for case in cases):
        raise ConfigError(f"{settings.origins[typed[0]]}: only the pack prompts reads prompt files; drop it, or run -m prompts")


def refuse_engine_without_prompts(settings: Settings, cases: Iterable[GateCase]) -> None:
    """How another engine is told of a prompt file is not known. Raises ConfigError."""
    reading = next((case for case in cases if case.plan is not None and case.plan.prompt_files), None)
    if reading is not None and settings.llm_bench is not None and settings.prompt_command is None:
        raise ConfigError(
            f"{settings.origins['llm_bench']}: {reading.id}: expected --prompt-command, which tells {settings.llm_bench.name} its prompt, "
            f"got none; write one, for example {EXAMPLE} (docs/prompts.md)"
        )


def prompt_notes(case: GateCase) -> tuple[str, ...]:
    """One line on what a bucket's case ran on; none for other cases."""
    if case.plan is None or not case.plan.prompt_files:
        return ()
    files = ", ".join(f"{file.path.name} (sha256 {file.sha256[:8]})" for file in case.plan.prompt_files)
    return (f"bucket {case.plan.bucket} runs -p {case.plan.preset.prompts[0]} on {files}",)


def refuse_changed_packs(settings: Settings, packs: tuple[str, ...]) -> None:
    """--preset and --runtime-mode say what the pack `runtime` runs; the cases of the others are fixed. Raises ConfigError."""
    fixed = [pack for pack in packs if pack != SINGLE_PACK]
    for name in ("preset", "runtime_mode"):
        if fixed and getattr(settings, name) is not None:
            raise ConfigError(
                f"{settings.origins[name]}: {getattr(settings, name)!r}: the cases of the pack {fixed[0]} fix their own preset and mode; "
                f"drop it, or run -m {SINGLE_PACK}"
            )


def refuse_foreign_packs(settings: Settings, packs: tuple[str, ...]) -> None:
    """Which case of m3 a log made elsewhere belongs to is not known, nor of what preset it is. Raises ConfigError."""
    foreign = {case.pack for case in _foreign_cases(settings)}
    changed = next((name for name in CASE_OPTIONS if getattr(settings, name) is not None), None)
    if foreign and changed is not None:
        raise ConfigError(
            f"{settings.origins['from_dir']} and {settings.origins[changed]} contradict each other: {settings.from_dir} holds results made "
            "elsewhere, which are judged as they are; drop one"
        )
    if foreign and packs and not foreign.intersection(packs):
        raise ConfigError(
            f"{settings.origins['from_dir']}: {settings.from_dir} holds results made elsewhere, of no known pack; run -m {SINGLE_PACK}"
        )


def refuse_gates_that_cannot_fail(settings: Settings, cases: Iterable[GateCase]) -> None:
    """A limit beyond what its metric can reach is no gate. Raises ConfigError for the first one."""
    for case in cases:
        for config in () if case.plan is None else configs_of(case.plan):
            refuse_unreachable(case.id, case.limits(settings), config.values, config.gen, settings.case_timeout_s)


def _adapted(case: PackCase, settings: Settings) -> GateCase:
    preset, overrides = case.preset, dict(case.overrides)
    if case.pack == SINGLE_PACK and settings.preset is not None:
        preset = load_preset(settings.preset)
    if case.pack == SINGLE_PACK and settings.runtime_mode is not None:
        overrides["kv_lossless_runtime_mode"] = settings.runtime_mode
    if settings.threads is not None:
        preset = replace(preset, threads=settings.threads)
    if settings.backend is not None:
        preset = replace(preset, backend=settings.backend)
    return GateCase(case.id, case.pack, case.case, case.run, case.budgets, replace(case, preset=preset, overrides=overrides))


def _foreign_cases(settings: Settings) -> tuple[GateCase, ...]:
    """Cases from logs or CSVs without keys of this suite; logs named like the runs of one sweep are one case."""
    if settings.from_dir is None:
        return ()
    measurements = load_measurements(settings.from_dir)
    if any(measurement.engine != FOREIGN_ENGINE for measurement in measurements):
        return ()
    sweep = [measurement for measurement in measurements if RUN_ID_PREFIX.match(measurement.label)]
    alone = [measurement for measurement in measurements if measurement not in sweep]
    cases = [_foreign_case(measurement, settings) for measurement in alone]
    if sweep:
        records = tuple(record for measurement in sweep for record in measurement.processes)
        name = settings.from_dir.parent.name if settings.from_dir.name == "logs" else settings.from_dir.name
        joined = replace(sweep[0], label=name, planned=len(records), processes=records)
        cases.append(_foreign_case(joined, settings))
    return tuple(cases)


def _foreign_case(measurement: CaseMeasurement, settings: Settings) -> GateCase:
    """Ids stay readable in `pytest -k`: ``runtime/NAME``. The labels of our own h2o_metrics.csv are case ids already."""
    pack, _, name = measurement.label.partition("/")
    packs = dict(zip(settings.pack_names, _packs(settings), strict=True))
    if pack not in packs or not name:
        pack, name = SINGLE_PACK, re.sub(r"[\s/]+", "_", measurement.label or str(settings.from_dir and settings.from_dir.name))
    case_id = f"{pack}/{name}"
    pack_cases = load_pack(packs[pack])
    like = next((case for case in pack_cases if case.id == case_id), pack_cases[0])
    return GateCase(case_id, pack, name, 1, like.budgets, None, measurement)
