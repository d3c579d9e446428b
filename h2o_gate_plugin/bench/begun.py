"""Going on with what was cut short: whether it is the same measurement still, and which of its processes count."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from h2o_gate_plugin.bench.baselines import origin_of
from h2o_gate_plugin.bench.engine import EMBEDDED_ENGINE, Engine
from h2o_gate_plugin.bench.host import THREAD_VARIABLES, environment_facts, host_facts
from h2o_gate_plugin.bench.measurement import ProcessRecord

ENGINE_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "MNN_", "H2O_BENCH_")
"""Of variables that an engine or its libraries read; limits of gates and the like may change between the parts of a run."""
SET_BY_US = (*THREAD_VARIABLES, "H2O_BENCH_TRACE", "H2O_BENCH_QUALITY", "H2O_BENCH_PROMPT_FILE")
Facts = Mapping[str, Any]
"""What a manifest tells: engine, base_config, environment, host, and plan_sha256 where several cases or runs are planned."""


def run_facts(engine: Engine) -> dict[str, Any]:
    """What a run begins on: engine, base config, environment, host."""
    return {
        "engine": {"name": engine.name, "argv": list(engine.argv), "sha256": engine.sha256},
        "base_config": {"path": str(engine.base_config), "sha256": engine.config_sha256},
        "environment": environment_facts(os.environ),
        "host": host_facts(),
    }


def difference(begun: Facts, now: Facts) -> str | None:
    """``another engine (1f2e… → 77ab…)``: the first thing without which figures do not belong together; None when all are the same."""
    for thing, get in _IDENTITY.items():
        old, new = get(begun), get(now)
        if old != new:
            return f"another {thing} ({old or 'not known'} → {new or 'not known'})"
    return None


def _short(digest: object) -> str | None:
    return digest[:12] if isinstance(digest, str) else None


def _libraries(facts: Facts) -> str | None:
    """The embedded engine computes with them."""
    if (facts.get("engine") or {}).get("name") != EMBEDDED_ENGINE:
        return None
    libraries = (facts.get("host") or {}).get("libraries") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def _environment(facts: Facts) -> str:
    found = facts.get("environment") or {}
    kept = (name for name in sorted(found) if name.startswith(ENGINE_PREFIXES) and name not in SET_BY_US)
    return " ".join(f"{name}={found[name]}" for name in kept if not name.startswith("MNN_KV_DUMP_")) or "nothing set"


_IDENTITY: Mapping[str, Callable[[Facts], str | None]] = {
    "pack": lambda facts: "+".join(facts.get("packs") or ()),
    "preset": lambda facts: _short(facts.get("plan_sha256")),
    "engine": lambda facts: _short((facts.get("engine") or {}).get("sha256")),
    "model config": lambda facts: _short((facts.get("base_config") or {}).get("sha256")),
    "host": lambda facts: origin_of(facts).host,
    "set of libraries": _libraries,
    "environment": _environment,
}


def whole_pairs(records: Sequence[ProcessRecord], paired: bool) -> tuple[tuple[ProcessRecord, ...], tuple[ProcessRecord, ...]]:
    """(what counts, what is measured again). ``paired``: candidates have baselines.

    Of a pair of which one process is missing the other is measured again: the two are compared because they ran one after the other.
    A process that failed counts, and is not tried again: an engine that crashes would pass with patience.
    """
    if not paired:
        return tuple(records), ()
    by_pair: dict[tuple[str, int | None], list[ProcessRecord]] = {}
    for record in records:
        by_pair.setdefault((record.run_id, record.pair), []).append(record)
    whole = {key for key, pair in by_pair.items() if len(pair) == 2 or any(record.error is not None for record in pair)}
    return (
        tuple(record for record in records if (record.run_id, record.pair) in whole),
        tuple(record for record in records if (record.run_id, record.pair) not in whole),
    )
