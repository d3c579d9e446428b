"""The looks at the pairs of a run, planned before the first one: how many pairs, and which share of the error each may spend."""

from __future__ import annotations

from dataclasses import dataclass

ERROR = 0.045
"""On each side of the limit, over all looks: 5 % less what neighbouring pairs that resemble each other take (test_decode_simulation.py)."""
LEAST_PAIRS = 4
"""Below this nothing can be told with any certainty."""
GROWTH = 1.5
LAST_SHARE = 0.7
"""Of ERROR, for the last look: the hard cases are decided there. The looks before it share the rest alike."""


@dataclass(frozen=True)
class Look:
    """``error``: the chance of a wrong verdict at this look, on each side of the limit."""

    pairs: int
    error: float


def looks(first: int, most: int) -> tuple[Look, ...]:
    """From ``first`` pairs (at least LEAST_PAIRS), times GROWTH, to ``most``; none when ``most`` is below LEAST_PAIRS.

    ``looks(4, 20)`` looks at 4, 6, 9, 14 and 20 pairs. One that would come within a fifth before the last is left out.
    """
    most = max(first, most)
    if most < LEAST_PAIRS:
        return ()
    at: list[int] = []
    exact = float(max(first, LEAST_PAIRS))
    while _rounded(exact) * 1.2 <= most:
        at.append(_rounded(exact))
        exact *= GROWTH
    early = (1 - LAST_SHARE) * ERROR / max(len(at), 1)
    return (*(Look(pairs, early) for pairs in at), Look(most, ERROR * LAST_SHARE if at else ERROR))


def _rounded(pairs: float) -> int:
    """Half a pair counts as one."""
    return int(pairs + 0.5)
