"""What the model asks of a KV cache; ``kv.cache.KvCache`` is one."""

from __future__ import annotations

from typing import Protocol

from h2o_gate_plugin.runtime.ops import F32


class AttentionCache(Protocol):
    """The layer code does not know which cache it has."""

    @property
    def n_seen(self) -> int:
        """Tokens taken in so far, evicted ones included: the absolute position of the next token."""

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        """Store the new tokens and attend causally: float32 [n_new, n_head, d], 2 x [n_new, n_kv_head, d] -> [n_new, n_head * d].

        Queries and keys come after RoPE. ``decode``: exactly one token, after which the cache may evict.
        """

    def end_token(self) -> None:
        """Called once per decoded token after all layers."""
