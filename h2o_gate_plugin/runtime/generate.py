"""Greedy generation and teacher forcing on top of prefill and decode_one_token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.model import decode_one_token
from h2o_gate_plugin.runtime.ops import F32


def greedy_token(logits: F32) -> int:
    """The most likely token, the lowest id on a tie. Raises EngineError when a logit is not finite."""
    token = int(logits.argmax())
    if not np.isfinite(logits).all():
        bad = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise EngineError(
            f"decode: logits: expected finite numbers, got {float(logits[bad])} for token {bad}; the weights or the KV cache are broken"
        )
    return token


def generate(model: Model, logits: F32, n_tokens: int, cache: AttentionCache) -> tuple[int, ...]:
    """Decode ``n_tokens`` greedily after the prompt whose last ``logits`` [vocab] are given.

    An end-of-text token does not stop it: a benchmark decodes what it was asked for, as llm_bench does.
    """
    tokens: list[int] = []
    for _ in range(n_tokens):
        tokens.append(greedy_token(logits))
        logits = decode_one_token(model, tokens[-1], cache)
    greedy_token(logits)  # the last token's logits count as output too: refuse them when they are not finite
    return tuple(tokens)


def teacher_forced_logits(model: Model, tokens: Sequence[int], cache: AttentionCache) -> F32:
    """Feed the given tokens one by one; row i holds the logits that follow tokens[i]. [n] -> [n, vocab]

    Raises EngineError when a logit is not finite.
    """
    rows = np.empty((len(tokens), model.config.vocab_size), dtype=np.float32)
    for row, token in zip(rows, tokens, strict=True):
        row[:] = decode_one_token(model, token, cache)
        greedy_token(row)
    return rows
