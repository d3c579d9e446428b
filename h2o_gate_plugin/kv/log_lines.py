"""The engine's statistics lines, word for word as the llm_bench contract has them ("Log lines")."""

from __future__ import annotations

from h2o_gate_plugin.kv.encode_queue import EncodeOutcome, EncodeQueue
from h2o_gate_plugin.kv.report import PlanReport
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import GEAR_CODEC

_MODE_NUMBERS = {"probe": 0, "full": 1, "store": 2}


def plan_line(plan: PlanReport, policy: KvPolicy) -> str:
    """``floor_limited=1``, after the contract's fields: the protected blocks alone are more than the target."""
    return (
        f"[H2O] layer={plan.layer} kv={plan.kv_tokens} keep_ratio={plan.keep_ratio:.4f} evict={plan.evicted_tokens} "
        f"lossy_ratio={plan.lossy_ratio:.3f} evict_us={plan.evict_us:.0f} reserve_pairs={plan.runs} target={plan.target_keep:.4f} "
        f"effective={plan.effective_keep:.4f} floor={plan.floor_keep:.4f} quantized={plan.quantized_keep:.4f} "
        f"recent={policy.recent_tokens} sink={policy.sink_tokens} block={policy.block_tokens} floor_limited={int(plan.floor_limited)}"
    )


def lossless_line(
    policy: KvPolicy,
    layer: int,
    kv_tokens: int,
    start: int,
    n_tokens: int,
    raw_bytes: int,
    queue: EncodeQueue,
    outcome: EncodeOutcome | None,
) -> str:
    """One encoded group, or one that a full queue refused (``outcome`` None): it stays raw and is tried again.

    ``updates`` counts the layer's groups, 0 marks the flush at the end of a run; ``reason`` follows where ``fallback=1``.
    """
    attempt = outcome.comp_bytes if outcome else 0
    failed = outcome is not None and outcome.reason is not None
    effective = attempt if outcome and not failed else raw_bytes
    line = (
        f"[H2O-LOSSLESS] layer={layer} kv={kv_tokens} start={start} tokens={n_tokens} raw={raw_bytes} attempt_comp={attempt} "
        f"eff_comp={effective} attempt_ratio={raw_bytes / attempt if attempt else 0.0:.3f} eff_ratio={raw_bytes / effective:.3f} "
        f"comp_us={outcome.comp_us if outcome else 0.0:.0f} decomp_us={outcome.decomp_us if outcome else 0.0:.0f} "
        f"updates={outcome.job.update if outcome else 0} fallback={int(failed)} backpressure={int(outcome is None)} queue={queue.depth} "
        f"async_q_peak={queue.async_peak_depth} async_wait_us={queue.wait_us:.0f} mode={_MODE_NUMBERS[policy.mode]} "
        f"zstd={int(policy.codec == GEAR_CODEC)}"
    )
    return f"{line} reason={outcome.reason} {outcome.detail}".rstrip() if outcome and failed else line
