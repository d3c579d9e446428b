"""A decoder-only transformer (RMSNorm, RoPE, grouped-query attention, SwiGLU): ``prefill`` and ``decode_one_token``.

A prompt goes through BLAS in chunks, one decoded token through compiled kernels; the cache attends in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import LayerWeights, Model
from h2o_gate_plugin.runtime.kernels import expanded, finish_layer, next_logits, project_qkv
from h2o_gate_plugin.runtime.ops import F32, rms_norm, rotate, silu

PREFILL_CHUNK_TOKENS = 1024
"""Tokens of a prompt that go through the weights at once: bounds the activations."""


def prefill(model: Model, ids: Sequence[int], cache: AttentionCache) -> F32:
    """Run a prompt, after whatever the cache has already seen; return the logits [vocab] that follow its last token.

    Raises ConfigError for an empty prompt, an id outside the vocabulary, or more tokens than the model's context.
    """
    if not ids:
        raise ConfigError("prefill: prompt: expected at least 1 token, got 0")
    for start in range(0, len(ids), PREFILL_CHUNK_TOKENS):
        hidden = prompt_states(model, ids[start : start + PREFILL_CHUNK_TOKENS], cache)
    return next_token_logits(model, hidden[-1])


def decode_one_token(model: Model, token: int, cache: AttentionCache) -> F32:
    """Feed one token; return the logits [vocab] that follow it. Raises ConfigError as ``prefill``."""
    config, position = model.config, cache.n_seen
    check_ids(model, (token,), position)
    n_head, n_rotated, eps = config.n_head, config.n_head + config.n_kv_head, config.rms_norm_eps
    cos, sin = model.cos[position], model.sin[position]
    x: F32 = expanded(model.embedding[token : token + 1])[0].copy()
    qkv = np.empty((1, n_rotated + config.n_kv_head, config.head_dim), dtype=np.float32)
    for index, layer in enumerate(model.layers):
        project_qkv(
            x, layer.attention_norm, eps, layer.qkv, layer.qkv_bias, layer.query_norm, layer.key_norm,
            cos, sin, n_head, config.n_kv_head, qkv[0],
        )  # fmt: skip
        mixed = cache.attend(index, qkv[:, :n_head], qkv[:, n_head:n_rotated], qkv[:, n_rotated:], decode=True)
        finish_layer(
            x, mixed[0], layer.attention_out, layer.attention_out_bias, layer.mlp_norm, eps, layer.gate_up, layer.mlp_down
        )  # fmt: skip
    cache.end_token()
    return next_token_logits(model, x)


def prompt_states(model: Model, ids: Sequence[int], cache: AttentionCache) -> F32:
    """The last block's output for every token of a prompt chunk: [n] -> [n, hidden]."""
    config, start, n_new = model.config, cache.n_seen, len(ids)
    check_ids(model, ids, start)
    cos, sin = model.cos[start : start + n_new, None], model.sin[start : start + n_new, None]
    x = expanded(model.embedding[np.asarray(ids)]).copy()  # [n] -> [n, hidden]
    for index, layer in enumerate(model.layers):
        queries, keys, values = _prompt_qkv(model, layer, x, cos, sin)
        x += cache.attend(index, queries, keys, values, decode=False) @ expanded(layer.attention_out).T
        if layer.attention_out_bias is not None:
            x += layer.attention_out_bias
        gate_up = rms_norm(x, layer.mlp_norm, config.rms_norm_eps) @ expanded(layer.gate_up).T  # -> [n, 2 * intermediate]
        gated = silu(gate_up[:, : config.intermediate_size])
        gated *= gate_up[:, config.intermediate_size :]
        x += gated @ expanded(layer.mlp_down).T
    return x


def next_token_logits(model: Model, hidden: F32) -> F32:
    """[hidden] -> [vocab]"""
    logits = np.empty(len(model.head), dtype=np.float32)
    next_logits(hidden, model.norm, model.config.rms_norm_eps, model.head, logits)
    return logits


def _prompt_qkv(model: Model, layer: LayerWeights, x: F32, cos: F32, sin: F32) -> tuple[F32, F32, F32]:
    """Queries [n, n_head, d] and keys [n, n_kv_head, d] after RoPE, and values."""
    config = model.config
    n_head, n_rotated = config.n_head, config.n_head + config.n_kv_head
    qkv = rms_norm(x, layer.attention_norm, config.rms_norm_eps) @ expanded(layer.qkv).T
    if layer.qkv_bias is not None:
        qkv += layer.qkv_bias
    heads = qkv.reshape(len(x), n_rotated + config.n_kv_head, config.head_dim)
    queries, keys = heads[:, :n_head], heads[:, n_head:n_rotated]
    if layer.query_norm is not None:
        queries = rms_norm(queries, layer.query_norm, config.rms_norm_eps)
    if layer.key_norm is not None:
        keys = rms_norm(keys, layer.key_norm, config.rms_norm_eps)
    return rotate(queries, cos, sin), rotate(keys, cos, sin), heads[:, n_rotated:]


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
