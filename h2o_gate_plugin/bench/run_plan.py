"""A case → its processes in order, and the hash that says when two cases are the same measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from h2o_gate_plugin.bench.config import KV_OFF
from h2o_gate_plugin.bench.engine import Engine
from h2o_gate_plugin.bench.pack import PackCase
from h2o_gate_plugin.bench.preset import BenchConfig, expand
from h2o_gate_plugin.errors import ConfigError


@dataclass(frozen=True)
class PlannedProcess:
    """One process to come; ``config`` has the role's values. ``pair`` counts from 1 within the run."""

    config: BenchConfig
    role: Literal["baseline", "candidate"]
    pair: int


def plan(case: PackCase, pairs: int, baseline: bool) -> tuple[PlannedProcess, ...]:
    """The processes in order: for each run ABBA, so that a drift of the machine hits both roles alike.

    Without a baseline there is nothing to interleave, and one candidate process per run is enough.
    """
    planned: list[PlannedProcess] = []
    for config in configs_of(case):
        if not baseline:
            planned.append(PlannedProcess(config, "candidate", 1))
            continue
        for pair in range(1, pairs + 1):
            planned.extend(pair_of(config, pair))
    return tuple(planned)


def pair_of(config: BenchConfig, pair: int) -> tuple[PlannedProcess, PlannedProcess]:
    """The two processes of the ``pair``-th pair (from 1) of a run, in order: baseline first in odd pairs, candidate first in even ones."""
    off = replace(config, values={**config.values, **KV_OFF})
    baseline, candidate = PlannedProcess(off, "baseline", pair), PlannedProcess(config, "candidate", pair)
    return (baseline, candidate) if pair % 2 else (candidate, baseline)


def configs_of(case: PackCase) -> tuple[BenchConfig, ...]:
    """Every run of the case. Raises ConfigError for a bucket whose prompt files are not chosen yet, and as ``expand``."""
    if case.bucket is not None and not case.prompt_files:
        raise ConfigError(f"{case.id}: prompt files: expected the sampled files of bucket {case.bucket}, got none; sample a prompt set")
    return expand(case.preset, case.overrides, case.prompt_files)


def plan_key(case: PackCase) -> str:
    """Hash of what will be run (every run with all its values, and the case's run number), whatever pack or name it has.

    A prompt file counts by its bucket, name and text, wherever it lies.
    """
    return _hash({"run": case.run, "configs": [_facts(config) for config in configs_of(case)]})


def plans_key(cases: Iterable[PackCase]) -> str:
    """Hash of what will be run for all ``cases``, in order."""
    return _hash({"plans": [plan_key(case) for case in cases]})


def configs_key(configs: Iterable[BenchConfig]) -> str:
    """Hash of runs with all their values, in order."""
    return _hash({"configs": [_facts(config) for config in configs]})


def _facts(config: BenchConfig) -> dict[str, Any]:
    facts = asdict(replace(config, prompt_file=None))
    del facts["prompt_file"]
    file = config.prompt_file
    return facts if file is None else {**facts, "bucket": file.bucket, "prompt_sha256": file.sha256}


def case_key(engine: Engine, case: PackCase) -> str:
    """Hash of engine and plan: equal keys are the same measurement, so runtime, m3 and final share it."""
    facts = {"engine": engine.name, "sha256": engine.sha256, "config": engine.config_sha256, "plan": plan_key(case)}
    return _hash({**facts, "prompt_command": engine.prompt_command} if case.prompt_files else facts)


def _hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
