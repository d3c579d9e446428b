"""What is told while something is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from h2o_gate_plugin.bench.measurement import Role


@dataclass(frozen=True)
class ProgressEvent:
    """``done`` of ``total`` processes are behind us. ``seconds`` since the case began here.

    "ended" has ``process_seconds`` and, where it went well, ``decode_tps``.

    kind: "waiting" (another timed run holds the machine), "started" and "ended" (a process), "finished" (the case),
    "kept" (another worker or an earlier test measured the case), "resumed" (an earlier run measured ``done`` of its processes).
    """

    kind: Literal["waiting", "started", "ended", "finished", "kept", "resumed"]
    label: str
    run_id: str
    role: Role | None
    pair: int | None
    pairs: int
    done: int
    total: int
    seconds: float
    process_seconds: float | None = None
    error: str | None = None
    decode_tps: float | None = None


Progress = Callable[[ProgressEvent], None]
