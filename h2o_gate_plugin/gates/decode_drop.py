"""decode_drop = 1 - tps / baseline_tps, from interleaved pairs of whole processes or against a fixed baseline."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from h2o_gate_plugin.gates.baseline import FixedBaseline
from h2o_gate_plugin.gates.evidence import Row

WITHIN_ONE_SD = 0.6827
"""Share of a normal distribution."""


@dataclass(frozen=True)
class Control:
    """Log speed ratios of neighbouring processes of one role: in ABBA order C1 C2, B2 B3, C3 C4, … stand side by side.

    Nothing but the machine differs between neighbours. As in the pairs, every other ratio is turned round, so that a drift cancels.
    """

    baseline: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()

    @property
    def centre(self) -> float | None:
        """Median of the baseline against itself; None without neighbours."""
        return statistics.median(self.baseline) if self.baseline else None

    @property
    def scatter(self) -> float | None:
        """What 68.3 % of the ratios of both roles stay within: the sd of normal ones, left alone by outliers. None for fewer than two."""
        sizes = sorted(abs(ratio) for ratio in (*self.baseline, *self.candidate))
        if len(sizes) < 2:
            return None
        below, share = divmod(WITHIN_ONE_SD * (len(sizes) - 1), 1)
        return sizes[int(below)] * (1 - share) + sizes[int(below) + 1] * share


@dataclass(frozen=True)
class PromptDrop:
    """The pairs at one prompt and gen length of one configuration: ``log_ratios`` = log(tps / baseline_tps), in the order of the pairs."""

    configuration: str
    prompt_tokens: int | None
    gen_tokens: int | None
    log_ratios: tuple[float, ...]
    rows: tuple[Row, ...]
    control: Control

    @property
    def drop(self) -> float:
        """1 - the geometric mean of the ratios."""
        return drop_of(math.fsum(self.log_ratios) / len(self.log_ratios))

    @property
    def drops(self) -> tuple[float, ...]:
        """Of the single pairs; rounded, so that a drop that equals the limit is not lost to the logarithm's last bit."""
        return tuple(round(drop_of(ratio), 12) for ratio in self.log_ratios)

    @property
    def pairs(self) -> int:
        return len(self.log_ratios)


@dataclass(frozen=True)
class DropEstimate:
    """``unpaired``: rows without decode speed or without a baseline to compare with, one line each."""

    drops: tuple[PromptDrop, ...]
    unpaired: tuple[str, ...]


def estimate_drop(rows: Sequence[Row], baseline_rows: Sequence[Row], fixed: FixedBaseline | None = None) -> DropEstimate:
    """Pair every candidate row with the baseline row of its own run, pair and lengths, or with ``fixed``. Runs of pairs stay apart."""
    baseline = {_pair_key(row): row for row in baseline_rows}
    found: dict[tuple[str, int | None, int | None, str | None], list[tuple[float, Row, Row | None]]] = defaultdict(list)
    unpaired = []
    for row in sorted(rows, key=lambda row: row.pair or 0):
        beside = baseline.get(_pair_key(row)) if fixed is None else None
        speed = _speed(row)
        reference = fixed.at(row.bench) if fixed is not None else None if beside is None else _speed(beside)
        if speed is None or reference is None:
            wanted = "baseline row of the same pair" if fixed is None else f"row of its lengths, backend and threads in the {fixed.source}"
            unpaired.append(f"{row.place}: no {'decode speed' if speed is None else wanted}")
        else:
            lengths = (row.configuration, row.bench.prompt_tokens, row.bench.gen_tokens, row.run_id if fixed is None else None)
            found[lengths].append((math.log(speed / reference), row, beside))
    drops = (
        PromptDrop(*lengths[:3], tuple(ratio for ratio, _, _ in pairs), tuple(row for _, row, _ in pairs), _control(pairs))
        for lengths, pairs in found.items()
    )
    return DropEstimate(tuple(drops), tuple(unpaired))


def drop_of(log_ratio: float) -> float:
    """1 - exp(log_ratio); 0.0 and not -0.0 for equal speeds."""
    return 0.0 - math.expm1(log_ratio)


def _control(pairs: Sequence[tuple[float, Row, Row | None]]) -> Control:
    by_role: dict[str, list[float]] = {"baseline": [], "candidate": []}
    for (_, candidate, baseline), (_, next_candidate, next_baseline) in pairwise(pairs):
        pair = candidate.pair
        if pair is None or baseline is None or next_baseline is None or next_candidate.pair != pair + 1:
            continue
        role, first, second = ("candidate", candidate, next_candidate) if pair % 2 else ("baseline", baseline, next_baseline)
        turned = -1.0 if (pair // 2) % 2 else 1.0
        by_role[role].append(turned * math.log((_speed(second) or 1.0) / (_speed(first) or 1.0)))
    return Control(tuple(by_role["baseline"]), tuple(by_role["candidate"]))


def _speed(row: Row) -> float | None:
    speed = row.bench.decode_tps
    return speed.mean if speed is not None and speed.mean > 0 else None


def _pair_key(row: Row) -> tuple[str, int | None, int | None, int | None]:
    return (row.run_id, row.pair, row.bench.prompt_tokens, row.bench.gen_tokens)
