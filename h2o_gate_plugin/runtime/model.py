"""A decoder-only transformer (RMSNorm, RoPE, grouped-query attention, SwiGLU): ``prefill`` and ``decode_one_token``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.attention import AttentionCache, attend, causal_mask
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.ops import F32, rms_norm, rotate, silu

PREFILL_CHUNK_TOKENS = 256
"""Queries handled at once in prefill: bounds the score matrix at n_head * 256 * n_seq floats."""


def prefill(model: Model, ids: Sequence[int], cache: AttentionCache) -> F32:
    """Run a prompt, after whatever the cache has already seen; return the logits [vocab] that follow its last token.

    Raises ConfigError for an empty prompt, an id outside the vocabulary, or more tokens than the model's context.
    """
    if not ids:
        raise ConfigError("prefill: prompt: expected at least 1 token, got 0")
    for start in range(0, len(ids), PREFILL_CHUNK_TOKENS):
        hidden = hidden_states(model, ids[start : start + PREFILL_CHUNK_TOKENS], cache, decode=False)
    return next_token_logits(model, hidden[-1])


def decode_one_token(model: Model, token: int, cache: AttentionCache) -> F32:
    """Feed one token; return the logits [vocab] that follow it. Raises ConfigError as ``prefill``."""
    hidden = hidden_states(model, (token,), cache, decode=True)
    cache.end_token()
    return next_token_logits(model, hidden[0])


def hidden_states(model: Model, ids: Sequence[int], cache: AttentionCache, decode: bool) -> F32:
    """The last block's output for every token of ``ids``: [n] -> [n, hidden]. ``decode`` asks for exactly one token."""
    config = model.config
    start, n_new = cache.n_seen, len(ids)
    check_ids(model, ids, start)
    n_head, n_rotated, head_dim = config.n_head, config.n_head + config.n_kv_head, config.head_dim
    cos, sin = model.cos[start : start + n_new], model.sin[start : start + n_new]
    mask = None if decode else causal_mask(n_new)
    x: F32 = model.embedding[np.asarray(ids)]  # [n] -> [n, hidden]
    for index, layer in enumerate(model.layers):
        qkv = rms_norm(x, layer.attention_norm, config.rms_norm_eps) @ layer.qkv  # -> [n, (n_head + 2 n_kv_head) * d]
        turned = rotate(qkv[:, : n_rotated * head_dim].reshape(n_new, n_rotated, 2, head_dim // 2), cos, sin)
        turned = turned.reshape(n_new, n_rotated, head_dim)
        values = qkv[:, n_rotated * head_dim :].reshape(n_new, config.n_kv_head, head_dim)
        cache.append(index, turned[:, n_head:], values)
        x = x + attend(turned[:, :n_head], cache, index, mask) @ layer.attention_out
        gate_up = rms_norm(x, layer.mlp_norm, config.rms_norm_eps) @ layer.gate_up  # -> [n, 2 * intermediate]
        gated = silu(gate_up[:, : config.intermediate_size])
        gated *= gate_up[:, config.intermediate_size :]
        x += gated @ layer.mlp_down
    return x


def next_token_logits(model: Model, hidden: F32) -> F32:
    """[..., hidden] -> [..., vocab]"""
    logits: F32 = rms_norm(hidden, model.norm, model.config.rms_norm_eps) @ model.head
    return logits


def check_ids(model: Model, ids: Sequence[int], n_seen: int) -> None:
    if n_seen + len(ids) > model.config.context_tokens:
        raise ConfigError(
            f"{model.config.folder}: context: expected at most {model.config.context_tokens} tokens (max_position_embeddings), "
            f"got {n_seen + len(ids)}; use a shorter prompt or decode fewer tokens"
        )
    if min(ids) < 0 or max(ids) >= model.config.vocab_size:
        raise ConfigError(
            f"{model.config.folder}: token id: expected 0 to {model.config.vocab_size - 1}, got {min(ids)} to {max(ids)}; "
            "the tokenizer and the model do not belong together"
        )
