"""What the gates of one case are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from h2o_gate_plugin.gates.baseline import FixedBaseline

Aggregate = Literal["worst-row", "best-row"]
AGGREGATES: tuple[Aggregate, ...] = ("worst-row", "best-row")
DecodeAggregate = Literal["paired", "avg", "median", "p90", "worst", "best"]
DECODE_AGGREGATES: tuple[DecodeAggregate, ...] = ("paired", "avg", "median", "p90", "worst", "best")


@dataclass(frozen=True)
class Limits:
    """None switches a gate (or a criterion of it) off, except ``max_decomp_us``: its gate asks for evidence even without a budget.

    Shares lie between 0 and 1, ``_us`` are microseconds a run, ``max_kl`` nats. ``require_evidence``: gates whose evidence must be there.

    ``decode_baseline``: None = the baseline measured in the same batch. ``decode_pairs`` to ``decode_max_pairs``: from the first look at
    the pairs of a run to the last; ``decode_time_budget_s`` of measuring ends them early. ``aggregate`` is the rule of the lossy gate.
    ``origins``: field name → where its value came from.
    """

    min_lossy: float | None = 3.0
    min_online_lossless: float | None = 1.3
    max_decode_drop: float | None = 0.05
    max_decomp_us: float | None = None
    max_queue_peak: float | None = 8.0
    max_fallback: float | None = 0.0
    min_resident: float | None = 3.0
    min_joint_resident: float | None = 3.3
    min_coverage: float | None = 0.95
    max_scope_violations: float | None = 0.0
    max_mismatches: float | None = 0.0
    max_repeat_spread: float | None = 0.0
    max_kl: float | None = 0.4
    max_masked_kl: float | None = 1e-4
    min_top1: float | None = 0.75
    max_nll_ratio: float | None = 1.25
    min_recall: float | None = 0.6
    min_recall_lead: float | None = 0.25
    max_missing_tokens: float | None = 0.0
    max_constant_prompts: float | None = 0.0
    max_async_wait_us: float | None = 50_000.0
    max_backpressure: float | None = 0.0
    min_decode_cache_reads: float | None = 1.0
    max_log_errors: float | None = 0.0
    require_evidence: frozenset[str] = frozenset()
    decode_baseline: FixedBaseline | None = None
    decode_pairs: int = 4
    decode_max_pairs: int = 20
    decode_time_budget_s: float = 300.0
    decode_aggregate: DecodeAggregate = "paired"
    decode_inconclusive: Literal["fail", "pass"] = "fail"
    aggregate: Aggregate = "worst-row"
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        return self.origins.get(name, "default")
