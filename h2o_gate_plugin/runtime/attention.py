"""Grouped-query attention over a KV cache. The layer code does not know which cache it has."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from h2o_gate_plugin.runtime.ops import F32, softmax_in_place


class AttentionCache(Protocol):
    """What the model asks of a cache; ``kv.cache.KvCache`` is one. All arrays float32."""

    @property
    def n_seen(self) -> int:
        """Tokens appended so far, evicted ones included: the absolute position of the next token."""

    def append(self, layer: int, keys: F32, values: F32) -> None:
        """Store [n_new, n_kv_head, head_dim]; keys come after RoPE."""

    def keys(self, layer: int) -> F32:
        """[n_kv_head, n_seq, head_dim], valid until the next keys() or values() call."""

    def values(self, layer: int) -> F32:
        """[n_kv_head, n_seq, head_dim], valid until the next keys() or values() call."""

    def observe(self, layer: int, probs: F32, decode: bool) -> None:
        """Take probabilities [n_head, n_query, n_seq] after softmax; may evict."""

    def end_token(self) -> None:
        """Called once per decoded token after all layers."""


def causal_mask(n_query: int) -> NDArray[Any]:
    """[n_query, n_query] float32: 0 where a query may look, -inf at the tokens after it."""
    return np.triu(np.full((n_query, n_query), -np.inf, dtype=np.float32), k=1)


def attend(queries: F32, cache: AttentionCache, layer: int, mask: F32 | None) -> F32:
    """Attention of the newest ``n_query`` tokens over everything the cache keeps; [n_query, n_head, d] -> [n_query, n_head * d].

    The queries' own keys and values are already in the cache, as its last ``n_query`` tokens, so ``mask`` covers just those
    columns; None means one query, and marks a decode step. Query heads of one KV head are consecutive.
    """
    n_query, n_head, head_dim = queries.shape
    keys = cache.keys(layer)
    n_kv_head, n_seq, _ = keys.shape
    scaled = queries.transpose(1, 0, 2) * np.float32(head_dim**-0.5)
    grouped = scaled.reshape(n_kv_head, -1, head_dim)  # [n_head, n_query, d] -> [n_kv_head, group * n_query, d]
    probs = np.matmul(grouped, keys.transpose(0, 2, 1)).reshape(n_head, n_query, n_seq)  # @ [n_kv_head, d, n_seq]
    if mask is not None:
        probs[:, :, n_seq - n_query :] += mask
    softmax_in_place(probs)
    mixed = np.matmul(probs.reshape(n_kv_head, -1, n_seq), cache.values(layer))  # -> [n_kv_head, group * n_query, d]
    cache.observe(layer, probs, decode=mask is None)
    joined: F32 = mixed.reshape(n_head, n_query, head_dim).transpose(1, 0, 2).reshape(n_query, n_head * head_dim)
    return joined
