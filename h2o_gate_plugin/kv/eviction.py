"""H2O eviction as pure functions: token scores from attention, and the plan of what to keep.

Source: H2O, "Heavy-Hitter Oracle" (Zhang et al. 2023, arXiv 2306.14048), with blocks, a moving average and protected ends as our
runtime semantics say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.half import F32
from h2o_gate_plugin.kv.shapes import KvPolicy

F64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

RUN_BYTES = 8
"""Reserve metadata: one (start, length) pair of 32-bit integers per run of consecutive positions kept."""

_SUM_TOLERANCE = 1e-3


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


def check_probabilities(probs: F32, n_head_multiple: int, n_seq: int, place: str) -> None:
    """Raise EngineError unless ``probs`` is float32 [n_head, n_query, n_seq], and finite, not negative and summing to 1 along n_seq."""
    if probs.dtype != np.float32 or probs.ndim != 3 or probs.shape[2] != n_seq or not probs.shape[1] or probs.shape[0] % n_head_multiple:
        want = f"float32 [a multiple of {n_head_multiple}, 1 or more, {n_seq}]"
        raise EngineError(f"{place}: attention: expected {want}, got {probs.dtype} {list(probs.shape)}; pass it as softmax left it")
    sums = np.add.reduce(probs, axis=2)
    off_by, lowest = float(np.abs(sums - 1.0).max()), float(probs.min())
    if not (off_by <= _SUM_TOLERANCE and lowest >= 0.0):  # false for NaN
        got = f"a sum off by {off_by!r} and a smallest entry of {lowest!r}"
        raise EngineError(f"{place}: attention: expected rows that sum to 1 per head and query, got {got}; pass them after softmax")


def seeded_scores(scores: F64, probs: F32, tokens_before: int) -> F64:
    """Merge a prompt's attention [n_head, n_query, n_seq] into ``scores`` [n_seq]: the mean over all queries so far.

    ``tokens_before``: tokens that the layer had seen before these queries; each counts as one query with the present scores. So
    chunks of one prompt give its plain column means, and a later prompt is weighed by its length: the total never passes 1.
    """
    n_head, n_query, n_seq = probs.shape
    columns = probs.reshape(-1, n_seq).sum(axis=0) / np.float64(n_head)  # [n_head * n_query, n_seq] -> [n_seq]
    merged: F64 = (scores * tokens_before + columns) / (tokens_before + n_query)
    return merged


def decayed_scores(scores: F64, probs: F32, alpha: float) -> F64:
    """``alpha * scores + (1 - alpha) * current`` for one decode token, probs [n_head, 1, n_seq], current = mean over heads."""
    current = probs[:, 0].sum(axis=0) * ((1.0 - alpha) / probs.shape[0])  # [n_head, n_seq] -> [n_seq]
    decayed: F64 = scores * alpha + current
    return decayed


def plan_keep(scores: F64, seen_tokens: int, policy: KvPolicy) -> Plan:
    """What to keep of the tokens with ``scores`` [n_seq].

    Blocks touching the first sink_tokens or the last recent_tokens stay. The rest of the wanted count goes to the best-scoring
    blocks (sum of token scores, ties to the newer block); the last one is kept in part, by its best tokens (ties to the newer).
    """
    n_seq, block = len(scores), policy.block_tokens
    starts = np.arange(0, n_seq, block)
    ends = np.minimum(starts + block, n_seq)
    protected = (starts < policy.sink_tokens) | (ends > n_seq - policy.recent_tokens)
    floor_tokens = int((ends - starts)[protected].sum())
    wanted = policy.wanted_tokens(n_seq, seen_tokens)
    keep = np.repeat(protected, ends - starts)
    candidates = np.flatnonzero(~protected)  # all full blocks: a short last block touches the recent tokens
    n_whole, rest = divmod(max(0, wanted - floor_tokens), block)
    best_first = candidates[_best_first(np.add.reduceat(scores, starts)[candidates])]
    for index in best_first[:n_whole]:
        keep[starts[index] : ends[index]] = True
    if rest and n_whole < len(best_first):
        start = int(starts[best_first[n_whole]])
        keep[start + _best_first(scores[start : start + block])[:rest]] = True
    return Plan(np.flatnonzero(keep), n_seq, seen_tokens, wanted, floor_tokens)


def run_count(positions: npt.NDArray[np.int64]) -> int:
    """Number of runs of consecutive positions in a sorted array."""
    return int(np.count_nonzero(np.diff(positions) != 1)) + 1 if len(positions) else 0


def _best_first(scores: F64) -> Indices:
    """Indices by falling score, ties to the higher index."""
    order: Indices = np.argsort(scores, kind="stable")[::-1]  # stable: equal scores stand oldest first, so reversed newest first
    return order
