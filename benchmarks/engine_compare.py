"""Two sides measured in turn, the ratio of their speeds, and what it is held against."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Side = Callable[[], float]
"""One run; returns its seconds."""
BlockSide = Callable[[], Iterator[float]]
"""One run in blocks of equal work; yields the seconds of each."""

HEADER = ("compared", "prompt", "BLAS threads", "tok/s", "peer's tok/s", "result", "90 % interval", "goal")


@dataclass(frozen=True)
class Goal:
    """``limit`` in the unit of the value it is held against."""

    limit: float
    at_least: bool
    name: str = ""

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def cell(self, value: float, show: Callable[[float], str], spread: tuple[float, float] | None = None) -> str:
        """``spread``: the value's confidence interval; where the limit lies inside it, the verdict is called noise."""
        sign, verdict = "≥" if self.at_least else "≤", "met" if self.met(value) else "missed"
        noise = " (within noise)" if spread is not None and self.met(spread[0]) != self.met(spread[1]) else ""
        return f"{self.name} {sign} {show(self.limit)}: {verdict}{noise}".strip()


@dataclass(frozen=True)
class Comparison:
    """Mean seconds of the two runs (or blocks) of each side, one entry per round; each takes ``n_tokens`` tokens."""

    n_tokens: int
    own_s: tuple[float, ...]
    peer_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Own speed / peer's speed, round by round."""
        return tuple(peer / own for own, peer in zip(self.own_s, self.peer_s, strict=True))

    @property
    def own_tps(self) -> float:
        return self.n_tokens / statistics.median(self.own_s)

    @property
    def peer_tps(self) -> float:
        return self.n_tokens / statistics.median(self.peer_s)


def interleave(own: Side, peer: Side, n_round: int, n_tokens: int, rest_s: float = 0.0) -> Comparison:
    """``n_round`` rounds of own, peer, peer, own after a warm-up of both: a drift of the machine's speed hits both sides alike.

    ``rest_s``: pause before each run, for threads of the other side that still spin.
    """
    own()
    peer()
    own_s, peer_s = [], []
    for _ in range(n_round):
        run_s = []
        for side in (own, peer, peer, own):
            time.sleep(rest_s)
            run_s.append(side())
        own_s.append((run_s[0] + run_s[3]) / 2)
        peer_s.append((run_s[1] + run_s[2]) / 2)
    return Comparison(n_tokens, tuple(own_s), tuple(peer_s))


def interleave_blocks(own: BlockSide, peer: BlockSide, n_round: int, n_tokens: int) -> Comparison:
    """As `interleave`, block by block of two runs at a time: own, peer, peer, own. Only for sides without threads of their own.

    Two runs give half as many rounds as they have blocks. Neighbours on the machine change within seconds, and a block takes
    milliseconds.
    """
    own_s, peer_s = [], []
    for number in range(2 * n_round + 1):
        own_blocks, peer_blocks = own(), peer()
        for own_first, peer_first in zip(own_blocks, peer_blocks, strict=True):
            peer_second = next(peer_blocks)
            own_second = next(own_blocks)
            if number:  # the first runs warm up
                own_s.append((own_first + own_second) / 2)
                peer_s.append((peer_first + peer_second) / 2)
    return Comparison(n_tokens, tuple(own_s), tuple(peer_s))


def speed_line(name: str, n_prompt: int, n_threads: int, compared: Comparison, goal: Goal) -> str:
    """A table line whose result is own speed / peer's speed."""
    return _line(name, n_prompt, n_threads, compared, compared.ratios, goal, times)


def drop_line(name: str, n_prompt: int, n_threads: int, compared: Comparison, goal: Goal | None) -> str:
    """A table line whose result is 1 - own speed / peer's speed; no ``goal``: reported as it is."""
    return _line(name, n_prompt, n_threads, compared, [1 - ratio for ratio in compared.ratios], goal, percent)


def _line(
    name: str, n_prompt: int, n_threads: int, compared: Comparison, values: Sequence[float], goal: Goal | None, show: Callable[[float], str]
) -> str:
    value, spread = statistics.median(values), median_interval(values)
    return table_line(
        name,
        f"{n_prompt:,}",
        n_threads,
        f"{compared.own_tps:,.0f}",
        f"{compared.peer_tps:,.0f}",
        f"**{show(value)}**",
        f"{show(spread[0])} … {show(spread[1])}",
        "none" if goal is None else goal.cell(value, show, spread),
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the true median lies with 90 % confidence or, of fewer than five values, least and most: order statistics, no normal law.

    The k-th smallest and k-th largest value enclose it but for 2 P(Binomial(n, 1/2) < k).
    """
    ordered, n = sorted(values), len(values)
    k, outside = 1, 0.5**n
    while outside + math.comb(n, k) * 0.5**n <= 0.05 and 2 * k < n:
        outside += math.comb(n, k) * 0.5**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def times(value: float) -> str:
    return f"{value:.2f}x"


def percent(value: float) -> str:
    return f"{value:.1%}"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def print_title(title: str, header: Iterable[str] = HEADER) -> None:
    """A section's heading and the head of its table; the first column holds text."""
    columns = tuple(header)
    print(f"\n### {title}\n\n{table_line(*columns)}\n|---|{'---:|' * (len(columns) - 1)}", flush=True)


def print_line(*cells: object) -> None:
    print(table_line(*cells), flush=True)


def table_line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
