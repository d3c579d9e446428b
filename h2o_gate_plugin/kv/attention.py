"""Grouped-query attention over the words of a KV cache: a compiled kernel for one decoded token, BLAS for a prompt.

The kernel reads the 16-bit words where they lie, so no float32 copy of K or V exists while decoding. Its sums over tokens are taken
in token order, whichever array a token lies in: a packed token gives the same bits as a raw one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.jit import exp_not_positive, kernel, ordered_kernel, widen
from h2o_gate_plugin.kv.eviction import F64, decay_scores
from h2o_gate_plugin.kv.words import F32, Typed, round_row

Runs = npt.NDArray[np.int64]
"""[n_run, 3]: source (0 raw, 1 unpacked), its first row, number of tokens; runs stand in token order and cover every token."""

DONE, KV_NOT_FINITE, SCORES_NOT_FINITE = range(3)


def prompt_attention(queries: F32, keys: F32, place: str) -> F32:
    """Causal probabilities of the newest tokens: [n_query, n_head, d], [n_seq, n_kv_head, d] -> [n_head, n_query, n_seq].

    Raises EngineError for scores that are not finite. Query heads of one KV head are consecutive.
    """
    n_query, n_head, head_dim = queries.shape
    n_seq, n_kv_head, _ = keys.shape
    scaled = queries.transpose(1, 0, 2) * np.float32(head_dim**-0.5)
    grouped = scaled.reshape(n_kv_head, -1, head_dim)  # [n_head, n_query, d] -> [n_kv_head, group * n_query, d]
    probs: F32 = np.matmul(grouped, keys.transpose(1, 2, 0)).reshape(n_head, n_query, n_seq)  # @ [n_kv_head, d, n_seq]
    probs[:, :, n_seq - n_query :] += np.triu(np.full((n_query, n_query), -np.inf, dtype=np.float32), k=1)
    if not softmax_rows(probs.reshape(-1, n_seq)):
        raise EngineError(f"{place}: attention: expected finite scores, got others; the weights or the KV cache are broken")
    return probs


def mixed_values(probs: F32, values: F32) -> F32:
    """[n_head, n_query, n_seq] probabilities, [n_seq, n_kv_head, d] values -> [n_query, n_head * d]."""
    n_head, n_query, n_seq = probs.shape
    _, n_kv_head, head_dim = values.shape
    mixed = np.matmul(probs.reshape(n_kv_head, -1, n_seq), values.transpose(1, 0, 2))  # -> [n_kv_head, group * n_query, d]
    joined: F32 = mixed.reshape(n_head, n_query, head_dim).transpose(1, 0, 2).reshape(n_query, n_head * head_dim)
    return joined


@kernel
def softmax_rows(rows: F32) -> bool:
    """Softmax of each row in place; -inf gives 0. Whether every row had a finite largest value and no NaN."""
    sound = True
    for i in range(len(rows)):
        sound &= _softmax(rows[i])
    return sound


@kernel
def decode_attention(
    queries: F32,
    key: F32,
    value: F32,
    raw_keys: Typed,
    raw_values: Typed,
    row: int,
    unpacked_keys: Typed,
    unpacked_values: Typed,
    runs: Runs,
    probs: F32,
    mixed: F32,
    scores: F64,
    alpha: float,
    squared: bool,
    n_near: int,
) -> int:
    """One token: round ``key`` and ``value`` [n_kv_head, d] into raw row ``row``, attend with ``queries`` [n_head, d], update scores.

    ``raw_…`` and ``unpacked_…``: words [rows, n_kv_head, d]; ``probs`` [n_head, n_seq] and ``mixed`` [n_head, d] are written. ``scores``
    [n_seq], or [0] where nobody asks for them, go through `decay_scores`. Returns DONE or what was not finite.
    """
    sound = round_row(key.reshape(-1), raw_keys[row].reshape(-1))
    sound &= round_row(value.reshape(-1), raw_values[row].reshape(-1))
    if not sound:
        return KV_NOT_FINITE
    if queries.shape[1] == 64:  # a constant lets the compiler unroll the row loops: a third faster
        sound = _attend(queries, raw_keys, raw_values, unpacked_keys, unpacked_values, runs, probs, mixed, 64)
    else:
        sound = _attend(queries, raw_keys, raw_values, unpacked_keys, unpacked_values, runs, probs, mixed, queries.shape[1])
    if not sound:
        return SCORES_NOT_FINITE
    if len(scores):
        decay_scores(scores, probs, alpha, squared, n_near)
    return DONE


@kernel
def _attend(
    queries: F32,
    raw_keys: Typed,
    raw_values: Typed,
    unpacked_keys: Typed,
    unpacked_values: Typed,
    runs: Runs,
    probs: F32,
    mixed: F32,
    head_dim: int,
) -> bool:
    at = 0
    for run in range(len(runs)):
        source, first, count = runs[run]
        if source == 0:  # one call on either array would be a third slower
            _score(queries, raw_keys, first, count, probs, at, head_dim)
        else:
            _score(queries, unpacked_keys, first, count, probs, at, head_dim)
        at += count
    sound = True
    for head in range(len(probs)):
        sound &= _softmax(probs[head])
        mixed[head, :] = np.float32(0.0)
    at = 0
    for run in range(len(runs)):
        source, first, count = runs[run]
        if source == 0:
            _mix(probs, raw_values, first, count, at, mixed, head_dim)
        else:
            _mix(probs, unpacked_values, first, count, at, mixed, head_dim)
        at += count
    return sound


@kernel
def _score(queries: F32, words: Typed, first: int, count: int, probs: F32, at: int, head_dim: int) -> None:
    group = len(queries) // words.shape[1]
    scale = np.float32(1.0) / np.sqrt(np.float32(head_dim))
    for head in range(len(queries)):
        query = queries[head]
        for i in range(count):
            word = words[first + i, head // group]
            total = np.float32(0.0)
            for c in range(head_dim):
                total += query[c] * widen(word[c])
            probs[head, at + i] = total * scale


@ordered_kernel
def _mix(probs: F32, words: Typed, first: int, count: int, at: int, mixed: F32, head_dim: int) -> None:
    """Four tokens at once, so that the sums are written once for all four; added in token order all the same."""
    group = len(mixed) // words.shape[1]
    for head in range(len(mixed)):
        sums, kv_head = mixed[head], head // group
        whole = count - count % 4
        for i in range(0, whole, 4):
            p0, p1, p2, p3 = probs[head, at + i], probs[head, at + i + 1], probs[head, at + i + 2], probs[head, at + i + 3]
            row = first + i
            w0, w1, w2, w3 = words[row, kv_head], words[row + 1, kv_head], words[row + 2, kv_head], words[row + 3, kv_head]
            for c in range(head_dim):
                sums[c] = (((sums[c] + p0 * widen(w0[c])) + p1 * widen(w1[c])) + p2 * widen(w2[c])) + p3 * widen(w3[c])
        for i in range(whole, count):
            p0, w0 = probs[head, at + i], words[first + i, kv_head]
            for c in range(head_dim):
                sums[c] += p0 * widen(w0[c])


@kernel
def _softmax(row: F32) -> bool:
    largest = row[0]
    unsound = 0
    for i in range(len(row)):
        largest = max(largest, row[i])
        unsound += not row[i] < np.inf
    if unsound or largest == -np.inf:
        return False
    total = np.float32(0.0)
    for i in range(len(row)):
        row[i] = exp_not_positive(row[i] - largest)
        total += row[i]
    share = np.float32(1.0) / total
    for i in range(len(row)):
        row[i] *= share
    return True
