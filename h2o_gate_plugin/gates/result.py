"""The outcome of one gate on one case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

GateName = Literal[
    "lossy_pass",
    "lossless_online_pass",
    "decode_pass",
    "runtime_decomp_pass",
    "runtime_queue_peak_pass",
    "runtime_fallback_pass",
    "resident_pass",
    "coverage_pass",
    "scope_pass",
    "kv_exact_pass",
    "repeats_pass",
    "quality_pass",
    "tokens_pass",
    "prompt_pass",
    "async_wait_pass",
    "backpressure_pass",
    "decode_cache_pass",
    "log_pass",
]
Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT_MEASURED", "UNPROVEN", "OFF"]
Direction = Literal[">=", "<="]

GATE_NAMES: tuple[GateName, ...] = get_args(GateName)
OVERALL = "overall_pass"


@dataclass(frozen=True)
class Criterion:
    """One of several measures that a gate asks for; ``row``: the place that decided it. ``origin``: of its limit."""

    name: str
    value: float
    limit: float
    unit: str
    direction: Direction
    row: str
    origin: str = "default"

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.direction == ">=" else self.value <= self.limit

    @property
    def relative_margin(self) -> float:
        """Distance to the limit in units of the limit, positive on the passing side."""
        distance = self.value - self.limit if self.direction == ">=" else self.limit - self.value
        return distance / abs(self.limit) if self.limit else distance


@dataclass(frozen=True)
class GateResult:
    """``direction`` says on which side of ``limit`` a value holds; ``rows`` name the log lines that decided.

    INCONCLUSIVE: measured, but too noisy to tell on which side of the limit; it fails unless ``tolerated``. NOT_MEASURED: evidence that
    should be there is missing. UNPROVEN: evidence that this engine does not print; it fails only where it is required.

    ``limit`` None with status PASS or FAIL: the gate asks for evidence only. ``reason``: why it failed, was not measured or is
    off, and what a reader should know about a pass; one line. ``limit_origin``: the option, pack or default that set the limit.
    ``criteria``: where a gate has several measures; value and limit are then those of the one nearest to failing.
    ``confidence``: how sure a statistical verdict is; one line.
    """

    name: GateName
    status: Status
    value: float | None
    limit: float | None
    unit: str
    direction: Direction
    aggregation: str
    source: str
    rows: tuple[str, ...] = ()
    reason: str | None = None
    limit_origin: str = ""
    criteria: tuple[Criterion, ...] = ()
    confidence: str | None = None
    tolerated: bool = False

    @property
    def margin(self) -> float | None:
        """Distance to the limit in the gate's unit, positive on the passing side; None without a value or a limit, or when it is off."""
        if self.value is None or self.limit is None or self.status == "OFF":
            return None
        return self.value - self.limit if self.direction == ">=" else self.limit - self.value

    @property
    def enabled(self) -> bool:
        return self.status != "OFF"

    @property
    def failed(self) -> bool:
        """An enabled gate without the evidence that it may ask for fails like one beyond its limit."""
        return self.status in ("FAIL", "NOT_MEASURED") or (self.status == "INCONCLUSIVE" and not self.tolerated)
