"""Baseline speeds of kept runs, and on which host, with which engine and model they were measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.host import host_fingerprint
from h2o_gate_plugin.bench.measurement import MANIFEST_FILE, CaseMeasurement
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import read_json

SpeedKey = tuple[int | None, int | None, str, str]
"""Prompt tokens, gen tokens, backend, threads."""


@dataclass(frozen=True)
class Origin:
    """``host``: its fingerprint; the others are sha256. None = not known."""

    host: str | None = None
    engine_sha256: str | None = None
    config_sha256: str | None = None


def speed_key(row: BenchRow) -> SpeedKey:
    return (row.prompt_tokens, row.gen_tokens, row.text.get("backend", ""), row.text.get("threads", ""))


def baseline_speeds(measurements: Iterable[CaseMeasurement]) -> Mapping[SpeedKey, tuple[float, ...]]:
    found: dict[SpeedKey, list[float]] = defaultdict(list)
    for measurement in measurements:
        for record in measurement.processes:
            for row in record.rows if record.role == "baseline" and record.error is None else ():
                if row.decode_tps is not None and row.decode_tps.mean > 0:
                    found[speed_key(row)].append(row.decode_tps.mean)
    return {key: tuple(speeds) for key, speeds in found.items()}


def origins_in(folder: Path) -> frozenset[Origin]:
    """Of every measured case at or below ``folder``; one unknown origin when there is no manifest."""
    manifests = sorted(folder.rglob(MANIFEST_FILE)) if folder.is_dir() else []
    return frozenset(_origin_in(path) for path in manifests) or frozenset((Origin(),))


def _origin_in(path: Path) -> Origin:
    try:
        return origin_of(read_manifest(path))
    except (TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: manifest: expected what a measured case writes, got {err!r}; measure the case again") from err


def read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path}: manifest: expected what a measured case writes, got {err!r}; measure the case again") from err
    if not isinstance(manifest, dict):
        raise ConfigError(f"{path}: manifest: expected a JSON object, got {manifest!r}; measure the case again")
    return manifest


def origin_of(manifest: Mapping[str, Any]) -> Origin:
    """Raises TypeError or AttributeError for one that no measured case wrote."""
    host, engine, config = (manifest.get(name) or {} for name in ("host", "engine", "base_config"))
    return as_declared(Origin(host_fingerprint(host) if host else None, engine.get("sha256"), config.get("sha256")))
