"""What a KV cache did and holds, as numbers for the llm_bench columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from h2o_gate_plugin.kv.eviction import RUN_BYTES, Plan


@dataclass(frozen=True)
class PlanReport:
    """One plan of one layer, after compaction; ratios of tokens against all tokens seen unless said otherwise.

    ``lossy_ratio``: bytes of all tokens seen / (bytes kept + 8 bytes a run); ``keep_ratio`` is its inverse. ``effective_keep``:
    the wanted count or the protected floor, whichever is more; ``quantized_keep``: what was kept in the end.
    """

    layer: int
    kv_tokens: int
    evicted_tokens: int
    runs: int
    lossy_ratio: float
    keep_ratio: float
    target_keep: float
    effective_keep: float
    floor_keep: float
    quantized_keep: float
    floor_limited: bool
    evict_us: float


def plan_report(layer: int, plan: Plan, runs: int, bytes_per_token: int, evict_us: float) -> PlanReport:
    seen, kept = plan.seen_tokens, plan.kept_tokens
    lossy_ratio = seen * bytes_per_token / (kept * bytes_per_token + RUN_BYTES * runs)
    return PlanReport(
        layer=layer,
        kv_tokens=plan.kv_tokens,
        evicted_tokens=plan.kv_tokens - kept,
        runs=runs,
        lossy_ratio=lossy_ratio,
        keep_ratio=1.0 / lossy_ratio,
        target_keep=plan.wanted_tokens / seen,
        effective_keep=min(max(plan.wanted_tokens, plan.floor_tokens), plan.kv_tokens) / seen,
        floor_keep=plan.floor_tokens / seen,
        quantized_keep=kept / seen,
        floor_limited=plan.floor_tokens > plan.wanted_tokens,
        evict_us=evict_us,
    )


def mean_over_layers(plans: tuple[PlanReport, ...], name: str) -> float | None:
    """Mean of one field over the layers that have a plan; None when there is none."""
    return float(np.mean([getattr(plan, name) for plan in plans])) if plans else None


@dataclass(frozen=True)
class KvReport:
    """Since the cache was made, over all turns. Bytes are bytes, ``_us`` are microseconds; None: did not happen.

    Keeps and lossy_ratio: means over the H2O layers' last plans. ``evict_us``: sum of planning and compaction. ``codec_us``: mean
    encode time of a group (K and V); ``comp_us`` and ``decomp_us``: sums. ``fallback``: groups that ended raw or were not exact.
    ``coverage``: cold bytes proven or packed / cold bytes in scope, sampling not deducted. ``full_bytes``: every token seen in fp16;
    ``range_…``: the configured H2O layers alone, with the part of the scratch that their longest one uses. ``range_decoding_bytes``: after
    the last token, before the end of the turn packed and trimmed; the other bytes: after it. ``encoded_…_bytes``: raw bytes of the groups
    that were encoded and came back exact where that was checked, by part of the scope; None: no layer in that part.
    """

    keep_ratio: float | None
    lossy_ratio: float | None
    target_keep: float | None
    effective_keep: float | None
    floor_keep: float | None
    quantized_keep: float | None
    evict_us: float
    codec_us: float | None
    lossless_ratio: float | None
    raw_bytes: int
    comp_bytes: int
    comp_us: float
    decomp_us: float
    queue_peak: int
    fallback: int
    fallback_reasons: Mapping[str, int]
    backpressure_skip: int
    async_queue_peak: int
    async_wait_us: float
    cache_hit: int
    cache_miss: int
    full_bytes: int
    resident_bytes: int
    peak_bytes: int
    range_full_bytes: int
    range_resident_bytes: int
    range_decoding_bytes: int
    coverage: float | None
    encoded_front_bytes: int | None
    encoded_kept_bytes: int | None
    mismatch_blocks: int
    kept_tokens: tuple[int, ...]
