"""What the gates of one case are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Aggregate = Literal["worst-row", "best-row"]
AGGREGATES: tuple[Aggregate, ...] = ("worst-row", "best-row")


@dataclass(frozen=True)
class Limits:
    """None switches a gate off, except ``max_decomp_us``: its gate asks for evidence of decompression even without a budget.

    ``decode_baseline_tps``: None = the baseline measured in the same batch. ``aggregate`` is the rule of the lossy gate.
    ``origins``: field name → where its value came from.
    """

    min_lossy: float | None = 3.0
    min_online_lossless: float | None = 1.3
    max_decode_drop: float | None = 0.05
    max_decomp_us: float | None = None
    max_queue_peak: float | None = 8.0
    max_fallback: float | None = 0.0
    decode_baseline_tps: float | None = None
    aggregate: Aggregate = "worst-row"
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        return self.origins.get(name, "default")
