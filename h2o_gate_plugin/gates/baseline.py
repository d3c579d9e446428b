"""A decode baseline that was not measured beside the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from h2o_gate_plugin.bench.baselines import SpeedKey, speed_key
from h2o_gate_plugin.bench.table import BenchRow


@dataclass(frozen=True)
class FixedBaseline:
    """``everywhere_tps``: one speed (tok/s) for every row; else ``tps`` by lengths, backend and threads. ``source`` is for the report."""

    source: str
    everywhere_tps: float | None = None
    tps: Mapping[SpeedKey, float] = field(default_factory=dict)

    def at(self, row: BenchRow) -> float | None:
        return self.tps.get(speed_key(row)) if self.everywhere_tps is None else self.everywhere_tps


def fixed_number(tps: float) -> FixedBaseline:
    return FixedBaseline(f"fixed baseline {tps:g} tok/s", tps)
