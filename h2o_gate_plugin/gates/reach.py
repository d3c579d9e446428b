"""A gate that cannot fail is a defect: which limits lie beyond what their metric can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.kv_options import KvValue


@dataclass(frozen=True)
class Reach:
    """The end of a metric's range that its gate should refuse: ``worst`` is what a runtime that does nothing right can come to."""

    limit: str
    worst: float
    why: str
    at_most: bool

    def cannot_fail(self, limit: float) -> bool:
        return limit >= self.worst if self.at_most else limit <= self.worst


def _at_most(limit: str, worst: float, why: str) -> Reach:
    return Reach(limit, worst, why, at_most=True)


def _at_least(limit: str, worst: float, why: str) -> Reach:
    return Reach(limit, worst, why, at_most=False)


def reaches(values: Mapping[str, KvValue], gen_tokens: int, timeout_s: float) -> tuple[Reach, ...]:
    """Of one run with these ``kv_`` values that decodes ``gen_tokens`` and is stopped after ``timeout_s`` seconds."""
    max_queue = float(values["kv_lossless_max_queue"])
    timeout_us = timeout_s * 1e6
    return (
        _at_least("min_lossy", 1.0, "a cache from which nothing is evicted has 1.0"),
        _at_least("min_online_lossless", 0.9, "the evaluator's frames never take a ninth more than the data"),
        _at_least("min_resident", 0.0, "a ratio of sizes is above 0"),
        _at_least("min_joint_resident", 0.0, "a ratio of sizes is above 0"),
        _at_least("min_coverage", 0.0, "a share is never below 0"),
        _at_least("min_top1", 0.0, "a share is never below 0"),
        _at_least("min_recall", 0.0, "a share is never below 0"),
        _at_least("min_recall_lead", -1.0, "a difference of shares is never below -1"),
        _at_least("min_decode_cache_reads", 0.0, "a count is never below 0"),
        _at_most("max_decode_drop", 1.0, "a drop is never above 1"),
        _at_most("max_queue_peak", max_queue, f"kv_lossless_max_queue is {max_queue:g}, and the queue grows no deeper"),
        _at_most("max_missing_tokens", float(gen_tokens), f"only {gen_tokens} tokens are asked for"),
        _at_most("max_decomp_us", timeout_us, f"a process is stopped after {timeout_s:g} s"),
        _at_most("max_async_wait_us", timeout_us, f"a process is stopped after {timeout_s:g} s"),
    )


def refuse_unreachable(case_id: str, limits: Limits, values: Mapping[str, KvValue], gen_tokens: int, timeout_s: float) -> None:
    """Raises ConfigError for the first limit of the case that its metric cannot break."""
    for reach in reaches(values, gen_tokens, timeout_s):
        limit = getattr(limits, reach.limit)
        if limit is not None and reach.cannot_fail(limit):
            expected = f"a limit {'<' if reach.at_most else '>'} {reach.worst:g}"
            raise ConfigError(
                f"{limits.origin(reach.limit)}: {case_id}: {reach.limit}: expected {expected} so that the gate can fail, got {limit:g}: "
                f"{reach.why}; set another limit, or off"
            )
