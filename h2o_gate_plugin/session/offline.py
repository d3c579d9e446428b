"""The offline part of a session: a KV dump, evaluated twice, kept in offline.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.gates.evidence import OfflineEvidence
from h2o_gate_plugin.interrupts import interrupts_held_back
from h2o_gate_plugin.outside_file import read_json

_MISCOUNTED = "bytes were miscounted: see its above_bound"


@dataclass(frozen=True)
class OfflineRecord:
    """``upper_bound`` and ``online_sim``: the evaluator's result objects; both None with a one-line ``reason``."""

    source: str
    reason: str | None
    upper_bound: dict[str, Any] | None
    online_sim: dict[str, Any] | None

    def evidence(self) -> OfflineEvidence:
        """A ratio above the data's entropy bound is an error of the accounting, and no evidence."""
        above = (self.online_sim or {}).get("above_bound", ())
        if above:
            reason = (
                f"{self.source}: offline result: expected a ratio within its entropy bound, got {len(above)} units above it; {_MISCOUNTED}"
            )
            return OfflineEvidence(None, None, self.source, reason)
        return OfflineEvidence(_ratio(self.online_sim), _ratio(self.upper_bound), self.source, self.reason)


def _ratio(result: dict[str, Any] | None) -> float | None:
    return None if result is None else float(result["lossless_ratio"])


def evaluate_dump(folder: Path, source: str) -> OfflineRecord:
    """Run the evaluator over the dump; a dump that cannot be evaluated is a record with the reason."""
    with interrupts_held_back():  # broken off, half of numpy would stay behind, and the report needs it
        from h2o_gate_plugin.kv.dump import read_dump  # late: importing numpy takes a tenth of a second
        from h2o_gate_plugin.offline.evaluator import evaluate
        from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND

    try:
        dump = read_dump(folder)
        upper_bound, online_sim = evaluate(dump, UPPER_BOUND), evaluate(dump, ONLINE_SIM)
    except DumpError as err:
        return OfflineRecord(source, str(err), None, None)
    if online_sim.skipped_entries:
        source += f", {online_sim.skipped_entries} of its entries unreadable and skipped"
    return OfflineRecord(source, None, upper_bound.to_json(), online_sim.to_json())


def save_offline(record: OfflineRecord, path: Path) -> None:
    document = {
        "source": record.source,
        "reason": record.reason,
        "upper_bound": record.upper_bound,
        "online_sim": record.online_sim,
    }
    write_atomic(path, json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True)
class _DrawnLayer:
    """What a report draws of a layer, K and V apart and together."""

    part: str
    layer: int
    lossless_ratio: float
    bound_ratio: float | None


def load_offline(path: Path) -> OfflineRecord:
    """Raises ConfigError when the file is not what ``save_offline`` writes."""
    try:
        document = read_json(path)
        record = as_declared(OfflineRecord(document["source"], document["reason"], document["upper_bound"], document["online_sim"]))
        as_declared(record.evidence())
        for result in (record.upper_bound, record.online_sim):
            for layer in (result or {}).get("layers") or ():
                as_declared(_DrawnLayer(layer["part"], layer["layer"], layer["lossless_ratio"], layer.get("bound_ratio")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as err:
        raise ConfigError(f"{path}: offline result: expected what a gate run writes, got {err!r}; run again without --h2o-from") from err
    return record
