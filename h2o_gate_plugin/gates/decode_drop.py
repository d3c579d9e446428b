"""decode_drop = 1 - tps / baseline_tps, from interleaved pairs of whole processes."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from h2o_gate_plugin.gates.evidence import Row

CLOSE = 2.0
"""Standard errors."""


@dataclass(frozen=True)
class PromptDrop:
    """The drop at one prompt and gen length of one configuration.

    ``drop`` = 1 - exp(mean log(tps / baseline_tps)) over the pairs; ``least`` and ``most``: the drops of the single pairs.
    ``standard_error``: of the mean log ratio, from the spread of the pairs; None for one pair.
    """

    configuration: str
    prompt_tokens: int | None
    gen_tokens: int | None
    drop: float
    least: float
    most: float
    standard_error: float | None
    pairs: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class DropEstimate:
    """``unpaired``: rows without decode speed or without a baseline to compare with, one line each."""

    drops: tuple[PromptDrop, ...]
    unpaired: tuple[str, ...]

    @property
    def worst(self) -> PromptDrop | None:
        return max(self.drops, key=lambda drop: drop.drop, default=None)


def _speed(row: Row) -> float | None:
    speed = row.bench.decode_tps
    return speed.mean if speed is not None and speed.mean > 0 else None


def estimate_drop(rows: Sequence[Row], baseline_rows: Sequence[Row], baseline_tps: float | None = None) -> DropEstimate:
    """Pair every candidate row with the baseline row of its own run, pair and lengths, or with the fixed ``baseline_tps``."""
    baseline = {_pair_key(row): speed for row in baseline_rows if (speed := _speed(row)) is not None}
    ratios: dict[tuple[str, int | None, int | None], list[tuple[float, Row]]] = defaultdict(list)
    unpaired = []
    for row in rows:
        speed = _speed(row)
        reference = baseline.get(_pair_key(row)) if baseline_tps is None else baseline_tps
        if speed is None or reference is None:
            unpaired.append(f"{row.place}: no {'decode speed' if speed is None else 'baseline row of the same pair'}")
        else:
            lengths = (row.configuration, row.bench.prompt_tokens, row.bench.gen_tokens)
            ratios[lengths].append((math.log(speed / reference), row))
    return DropEstimate(tuple(_prompt_drop(lengths, pairs) for lengths, pairs in ratios.items()), tuple(unpaired))


def is_undecided(estimate: DropEstimate, limit: float) -> bool:
    """Whether more pairs could well change the verdict: a drop lies within CLOSE standard errors of the limit.

    The rule looks the same from both sides of the limit and all pairs count in the end, so it is no retry until green.
    """
    log_limit = math.log1p(-limit)
    return any(
        drop.standard_error is None or abs(math.log1p(-drop.drop) - log_limit) < CLOSE * drop.standard_error for drop in estimate.drops
    )


def _pair_key(row: Row) -> tuple[str, int | None, int | None, int | None]:
    return (row.run_id, row.pair, row.bench.prompt_tokens, row.bench.gen_tokens)


def _prompt_drop(lengths: tuple[str, int | None, int | None], pairs: Sequence[tuple[float, Row]]) -> PromptDrop:
    logs = [log_ratio for log_ratio, _ in pairs]
    return PromptDrop(
        *lengths,
        drop=1 - math.exp(math.fsum(logs) / len(logs)),
        least=1 - math.exp(max(logs)),
        most=1 - math.exp(min(logs)),
        standard_error=statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else None,
        pairs=len(logs),
        rows=tuple(row for _, row in pairs),
    )
