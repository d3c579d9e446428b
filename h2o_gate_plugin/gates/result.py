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
]
Status = Literal["PASS", "FAIL", "NOT_MEASURED", "OFF"]
Direction = Literal[">=", "<="]

GATE_NAMES: tuple[GateName, ...] = get_args(GateName)
OVERALL = "overall_pass"


@dataclass(frozen=True)
class GateResult:
    """``direction`` says on which side of ``limit`` a value holds; ``rows`` name the log lines that decided.

    ``limit`` None with status PASS or FAIL: the gate asks for evidence only. ``reason``: why it failed, was not measured or is
    off, and what a reader should know about a pass; one line. ``limit_origin``: the option, pack or default that set the limit.
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
    limit_origin: str = "default"

    @property
    def margin(self) -> float | None:
        """Distance to the limit in the gate's unit, positive on the passing side; None without a value or a limit."""
        if self.value is None or self.limit is None:
            return None
        return self.value - self.limit if self.direction == ">=" else self.limit - self.value

    @property
    def enabled(self) -> bool:
        return self.status != "OFF"

    @property
    def failed(self) -> bool:
        """An enabled gate without evidence fails like one beyond its limit."""
        return self.status in ("FAIL", "NOT_MEASURED")
