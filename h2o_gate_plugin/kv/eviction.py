"""H2O eviction as pure functions: token scores from attention, and the plan of what to keep.

Source: H2O, "Heavy-Hitter Oracle" (Zhang et al. 2023, arXiv 2306.14048), with blocks, a moving average and protected ends as our
runtime semantics say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import kernel
from h2o_gate_plugin.kv.shapes import KvPolicy, Selection
from h2o_gate_plugin.kv.words import F32

F64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Positions = npt.NDArray[np.int64]

LEAST_QUERIES = 16
"""A mean square over fewer queries would be one query's whim."""

RUN_BYTES = 8
"""Reserve metadata: one (start, length) pair of 32-bit integers per run of consecutive positions kept."""


@dataclass(frozen=True)
class Plan:
    """``kept``: sorted cache indices. ``wanted_tokens``: the target; ``floor_tokens``: tokens in protected blocks."""

    kept: Indices
    kv_tokens: int
    seen_tokens: int
    wanted_tokens: int
    floor_tokens: int

    @property
    def kept_tokens(self) -> int:
        return len(self.kept)


def seeded_scores(scores: F64, probs: F32, positions: Positions, tokens_before: int, policy: KvPolicy) -> F64:
    """Merge a prompt's attention [n_head, n_query, n_seq] into ``scores`` [n_seq]; ``probs`` may be overwritten.

    The queries are the last ``n_query`` of ``positions`` [n_seq]. ``tokens_before``: tokens that the layer had seen before them.
    ``mean``: the mean attention over all queries so far, each token seen before counting as one query with the present scores. So chunks
    of one prompt give its plain column means, and a later prompt is weighed by its length: the total never passes 1.
    ``mean_square``: the mean of its square over those queries that could see the token, never fewer than LEAST_QUERIES: few strong looks
    count for more than many faint ones, and an old token gains nothing by its age. Attention to a position less than
    score_near_tokens before the query is left out in both.
    """
    n_head, n_query, n_seq = probs.shape
    n_near, squared = policy.score_near_tokens, policy.score == "mean_square"
    if squared:
        np.square(probs, out=probs)
    columns = probs.reshape(-1, n_seq).sum(axis=0) / np.float64(n_head)  # [n_head * n_query, n_seq] -> [n_seq]
    if n_near:
        start = max(0, n_seq - n_query - n_near)
        distance = positions[n_seq - n_query :, None] - positions[None, start:]  # [n_query, n_seq - start]
        far = np.where(distance < n_near, np.float32(0.0), probs[:, :, start:].sum(axis=0))
        columns[start:] = far.sum(axis=0) / np.float64(n_head)  # not a difference: what is left out entirely must be 0 exactly
    before: F64 = np.full(n_seq, float(tokens_before))
    after = before + n_query
    if squared:
        unseen = n_near + positions  # queries that come before the token, or too near to it
        before, after = np.maximum(before - unseen, LEAST_QUERIES), np.maximum(after - unseen, LEAST_QUERIES)
    merged: F64 = (scores * before + columns) / after
    return merged


@kernel
def decay_scores(scores: F64, probs: F32, alpha: float, squared: bool, n_near: int) -> None:
    """In place, ``alpha * scores + (1 - alpha) * current`` for one decode token.

    ``current``: mean over heads of probs [n_head, n_seq], or of their squares; the last ``n_near`` tokens' attention is left out.
    """
    n_head, n_seq = probs.shape
    for i in range(n_seq):
        scores[i] *= alpha
    share = (1.0 - alpha) / n_head
    for head in range(n_head):
        row = probs[head]
        if squared:
            for i in range(n_seq - n_near):
                scores[i] += share * np.float64(row[i] * row[i])
        else:
            for i in range(n_seq - n_near):
                scores[i] += share * np.float64(row[i])


def near_count(positions: Positions, n_near: int) -> int:
    """How many of the sorted ``positions`` lie less than ``n_near`` before the last one, itself included."""
    return len(positions) - int(np.searchsorted(positions, positions[-1] - n_near, side="right")) if n_near else 0


def control_scores(selection: Selection, layer: int, positions: Positions) -> F64:
    """What a control prefers: newer tokens (``window``), or random ones, one fixed draw per layer and position (``random``)."""
    if selection == "window":
        return positions.astype(np.float64)
    return np.random.default_rng(layer).random(int(positions[-1]) + 1)[positions]


def plan_keep(scores: F64, seen_tokens: int, policy: KvPolicy) -> Plan:
    """What to keep of the tokens with ``scores`` [n_seq].

    Blocks touching the first sink_tokens or the last recent_tokens stay. The rest of the wanted count goes to the best-scoring
    blocks (sum of token scores, ties to the newer block); the last one is kept in part, by its best tokens (ties to the newer).
    """
    n_seq, block = len(scores), policy.block_tokens
    wanted = policy.wanted_tokens(n_seq, seen_tokens)
    # between the protected ends all blocks are full: a short last block touches the recent tokens
    first = min(n_seq, -(-policy.sink_tokens // block) * block)
    last = max(first, max(0, n_seq - policy.recent_tokens) // block * block)
    floor_tokens = n_seq - (last - first)
    if wanted >= n_seq or first == last:
        return Plan(np.arange(n_seq), n_seq, seen_tokens, wanted, floor_tokens)
    candidates = scores[first:last]
    n_whole, rest = divmod(max(0, wanted - floor_tokens), block)
    best_first = _best_first(candidates if block == 1 else np.add.reduceat(candidates, np.arange(0, len(candidates), block)))
    chosen = np.zeros(len(best_first), dtype=np.bool_)
    chosen[best_first[:n_whole]] = True
    keep = np.ones(n_seq, dtype=np.bool_)
    keep[first:last] = chosen if block == 1 else np.repeat(chosen, block)
    if rest:  # fewer are wanted than there are, so a block is left
        start = int(best_first[n_whole]) * block
        keep[first + start + _best_first(candidates[start : start + block])[:rest]] = True
    return Plan(np.flatnonzero(keep), n_seq, seen_tokens, wanted, floor_tokens)


def run_count(positions: Positions) -> int:
    """Number of runs of consecutive positions in a sorted array."""
    return int(np.count_nonzero(positions[1:] - positions[:-1] != 1)) + 1 if len(positions) else 0


def _best_first(scores: F64) -> Indices:
    """Indices by falling score, ties to the higher index."""
    order: Indices = np.argsort(scores, kind="stable")[::-1]  # stable: equal scores stand oldest first, so reversed newest first
    return order
