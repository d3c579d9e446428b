"""A gate run as the history keeps it: what it ran on, and what each gate said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.baselines import Origin, origins_in
from h2o_gate_plugin.bench.measurement import MEASUREMENT_FILE
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import read_json
from h2o_gate_plugin.report.model import SCHEMA_VERSION, SUMMARY_FILE

NOT_SET = "not set"


@dataclass(frozen=True)
class KeptGate:
    """One gate on one case, or one of its criteria. ``criterion`` None: the gate itself, whose figures are then those of the criterion
    nearest to failing. ``direction`` None: a summary of an older version, which did not tell. ``limit_origin``: what set the limit.
    """

    case: str
    gate: str
    criterion: str | None
    status: str
    value: float | None
    limit: float | None
    unit: str
    direction: str | None
    limit_origin: str

    @property
    def name(self) -> str:
        return self.gate if self.criterion is None else f"{self.gate}: {self.criterion}"

    @property
    def margin(self) -> float | None:
        """As GateResult.margin."""
        if self.value is None or self.limit is None or self.direction is None or self.status == "OFF":
            return None
        return self.value - self.limit if self.direction == ">=" else self.limit - self.value


@dataclass(frozen=True)
class KeptRow:
    """The numbers of one row of llm_bench's table, and the plan it belongs to; speeds are ``prefill_tps`` and ``decode_tps``."""

    plan: str
    role: str
    run_id: str
    pair: int | None
    prompt_tokens: int | None
    gen_tokens: int | None
    backend: str
    threads: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class KeptRun:
    """``incomplete``: why the verdict is not that of a whole pack; None = finished. ``plans``: case → plan_key, None where not known.

    ``settings``: flag → (value, where it came from). ``rows``: those of the candidates and of the baselines; none when read from a folder.
    """

    id: str
    started_utc: str
    seconds: float
    folder: Path
    pack: str
    overall_pass: bool | None
    incomplete: str | None
    engine: str
    origin: Origin
    cpu: str | None
    revision: Revision
    version: str | None
    settings: Mapping[str, tuple[str, str]]
    plans: Mapping[str, str | None]
    gates: tuple[KeptGate, ...]
    rows: tuple[KeptRow, ...] = field(default=(), repr=False)


def run_from_folder(folder: Path) -> KeptRun:
    """From summary.json and the manifests beside it; the commit is not known there. Raises ConfigError when it is no finished run."""
    path = folder / SUMMARY_FILE
    try:
        summary = read_json(path)
        if summary["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(f"{path}: schema_version: expected {SCHEMA_VERSION}, got {summary['schema_version']!r}; run the pack again")
        judged_again = summary["settings"]["--h2o-from"]["value"]
        measured_in = folder if judged_again == NOT_SET else Path(judged_again)
        origins = tuple(origins_in(measured_in))
        plans = {case["id"]: _plan(folder, case) for case in summary["cases"]}
        return as_declared(run_from_summary(folder.name, folder, summary, origins[0] if len(origins) == 1 else Origin(), plans))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: gate run: expected what a gate run writes, got {err!r}; name the folder of a finished run") from err


def run_from_summary(
    name: str,
    folder: Path,
    summary: Mapping[str, Any],
    origin: Origin,
    plans: Mapping[str, str | None],
    revision: Revision = Revision(),  # noqa: B008  frozen
    version: str | None = None,
    rows: tuple[KeptRow, ...] = (),
) -> KeptRun:
    """``summary``: the object that summary.json holds."""
    engine, host = summary["engine"], summary["host"]
    measured_here = summary["settings"]["--h2o-from"]["value"] == NOT_SET
    return KeptRun(
        id=name,
        started_utc=summary["started_utc"],
        seconds=summary["seconds"],
        folder=folder,
        pack=summary["pack"],
        overall_pass=summary["overall_pass"],
        incomplete=summary["incomplete"],
        engine=engine["name"],
        origin=Origin(
            origin.host or (host.get("fingerprint") if measured_here else None),
            origin.engine_sha256 or engine["sha256"],
            origin.config_sha256,
        ),
        cpu=host.get("cpu"),
        revision=revision,
        version=version,
        settings={flag: (setting["value"], setting["origin"]) for flag, setting in summary["settings"].items()},
        plans=plans,
        gates=tuple(kept for case in summary["cases"] for gate in case["gates"] for kept in _gates(case["id"], gate)),
        rows=rows,
    )


def _gates(case: str, gate: Mapping[str, Any]) -> tuple[KeptGate, ...]:
    """The gate, then its criteria."""
    name, limit_origin = gate["name"], gate["limit_origin"]
    whole = KeptGate(case, name, None, gate["status"], gate["value"], gate["limit"], gate["unit"], gate.get("direction"), limit_origin)
    return whole, *(_criterion(case, name, criterion) for criterion in gate.get("criteria", ()))


def _criterion(case: str, gate: str, criterion: Mapping[str, Any]) -> KeptGate:
    value, limit, direction = criterion["value"], criterion["limit"], criterion["direction"]
    holds = value >= limit if direction == ">=" else value <= limit
    status = "PASS" if holds else "FAIL"
    return KeptGate(case, gate, criterion["name"], status, value, limit, criterion["unit"], direction, criterion["origin"])


def _plan(folder: Path, case: Mapping[str, Any]) -> str | None:
    kept = case["artifacts"]["folder"]
    path = folder / kept / MEASUREMENT_FILE if kept is not None else None
    if path is None or not path.is_file():
        return None
    plan: str | None = read_json(path).get("plan_key")
    return plan
