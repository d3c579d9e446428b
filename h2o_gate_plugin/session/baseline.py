"""--decode-baseline: from what was asked for to speeds, refused before anything runs when they come from another host."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from h2o_gate_plugin.bench.baselines import Origin, SpeedKey, baseline_speeds, origins_in
from h2o_gate_plugin.bench.engine import Engine
from h2o_gate_plugin.bench.host import host_facts, host_fingerprint
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.baseline import FixedBaseline, fixed_number
from h2o_gate_plugin.history.database import KeptBaselines, history_file, open_history
from h2o_gate_plugin.options import ROLLING, Settings

ROLLING_RUNS = 5


def decode_baseline(settings: Settings, engine: Engine | None, cwd: Path) -> FixedBaseline | None:
    """None for ``auto``. ``engine`` None: the candidate is what --h2o-from keeps. Raises ConfigError for a baseline that cannot be used."""
    asked = settings.decode_baseline
    if asked is None or settings.max_decode_drop is None:
        return None
    candidate = _candidate_origin(settings, engine)
    place = settings.origins["decode_baseline"]
    if asked == ROLLING:
        return _rolling(history_file(settings.history_dir, cwd), candidate, place)
    if isinstance(asked, Path):
        return _kept_run(asked, candidate, place, settings)
    number = fixed_number(float(asked))
    _refuse_host(settings, f"{place}: {number.source}", "a host that is not known", candidate)
    return number


def _candidate_origin(settings: Settings, engine: Engine | None) -> Origin:
    """Unknown parts are None, so are parts in which kept artifacts differ among themselves."""
    if engine is not None:
        return Origin(host_fingerprint(host_facts()), engine.sha256, engine.config_sha256)
    kept = origins_in(settings.from_dir or Path())
    hosts, engines, configs = ({getattr(origin, name) for origin in kept} for name in ("host", "engine_sha256", "config_sha256"))
    return Origin(*(values.pop() if len(values) == 1 else None for values in (hosts, engines, configs)))


def _kept_run(folder: Path, candidate: Origin, place: str, settings: Settings) -> FixedBaseline:
    speeds = baseline_speeds(load_measurements(folder))
    if not speeds:
        raise ConfigError(f"{place}: {folder}: expected a run with baseline rows, got none; name one that measured its own baseline")
    hosts = {origin.host for origin in origins_in(folder)}
    if hosts != {candidate.host} or candidate.host is None:
        named = ", ".join(sorted(host for host in hosts if host is not None))
        _refuse_host(settings, f"{place}: {folder}", f"host {named}" if named else "a host that is not known", candidate)
    medians = {key: statistics.median(found) for key, found in speeds.items()}
    return FixedBaseline(f"baseline of the kept run {folder}", tps=medians)


def _rolling(history: Path, candidate: Origin, place: str) -> FixedBaseline:
    """The median of all baseline rows of the latest runs, for each lengths, backend and threads."""
    latest: tuple[KeptBaselines, ...] = ()
    if history.is_file() and None not in (candidate.host, candidate.engine_sha256):
        with open_history(history) as opened:
            latest = opened.baselines(candidate, ROLLING_RUNS)
    if not latest:
        raise ConfigError(
            f"{place}: {history}: expected runs with baselines of this host ({candidate.host}), engine and model, got none; "
            "run with --decode-baseline=auto first, or name the history's folder by --h2o-history"
        )
    speeds: dict[SpeedKey, list[float]] = defaultdict(list)
    for run in latest:
        for key, found in run.speeds.items():
            speeds[key].extend(found)
    medians = {key: statistics.median(found) for key, found in speeds.items()}
    named = f"{len(latest)} run{'' if len(latest) == 1 else 's'} of {history}, latest {latest[0].run}"
    return FixedBaseline(f"rolling baseline, median of {named}", tps=medians)


def _refuse_host(settings: Settings, baseline: str, host: str, candidate: Origin) -> None:
    """Raises ConfigError unless forced: speeds of two hosts say nothing about the drop."""
    if settings.decode_baseline_force == "no":
        here = f"host {candidate.host}" if candidate.host is not None else "a host that is not known either"
        raise ConfigError(
            f"{baseline}: expected a baseline of the candidate's {here}, got one of {host}; "
            "use --decode-baseline=auto, or --decode-baseline-force=yes to compare all the same"
        )
