"""Eviction against its definition: a full cache that attends to the kept positions alone must say the same.

Whatever goes wrong between the plan and the attention (rows moved to a wrong place, positions out of step, heads mixed up) makes the two
differ; what was decided to be kept does not.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.words import F32, image, rounded
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.ops import log_softmax
from h2o_gate_plugin.runtime.prompts import Prompt

MASKED_TOKENS = 64
"""Decoded tokens: four plans of the suite's update interval."""

Positions = npt.NDArray[np.int64]


class PositionedCache(AttentionCache, Protocol):
    """A cache that says which tokens it keeps."""

    def positions(self, layer: int) -> Positions:
        """Absolute positions of the kept tokens, sorted."""


class MaskedCache:
    """Every token's K and V, rounded as any cache rounds them; ``visible[layer]`` limits what the next decoded token attends to."""

    def __init__(self, n_layer: int, dtype: KvDtype) -> None:
        self._dtype = dtype
        self._rows: list[list[F32]] = [[] for _ in range(2 * n_layer)]
        self.visible: list[Positions | None] = [None] * n_layer
        self._counts = [0] * n_layer

    @property
    def n_seen(self) -> int:
        return self._counts[-1]

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        """As `runtime.attention.AttentionCache.attend`, in plain numpy."""
        start = self._counts[layer]
        self._counts[layer] += len(queries)
        all_keys, all_values = (self._extended(2 * layer + part, new) for part, new in enumerate((keys, values)))
        positions = np.arange(self._counts[layer])
        visible = self.visible[layer]
        if decode and visible is not None:
            positions = np.append(visible, start)
        mixed = np.empty((len(queries), queries.shape[1], queries.shape[2]), dtype=np.float32)
        group = queries.shape[1] // keys.shape[1]
        for head in range(queries.shape[1]):
            scores = (
                queries[:, head] @ all_keys[positions, head // group].T / np.float32(np.sqrt(queries.shape[2]))
            )  # -> [n_new, n_visible]
            scores[positions[None, :] > start + np.arange(len(queries))[:, None]] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = weights @ all_values[positions, head // group] / weights.sum(axis=1, keepdims=True)
        return mixed.reshape(len(queries), -1)

    def end_token(self) -> None:
        pass

    def _extended(self, index: int, new: F32) -> F32:
        words = rounded(new, self._dtype, "masked cache")
        exact = np.empty(new.shape, dtype=np.float32)
        image(words, self._dtype, exact)
        self._rows[index].append(exact)
        if len(self._rows[index]) > 1:
            self._rows[index] = [np.concatenate(self._rows[index])]
        return self._rows[index][0]


def masked_kl(model: Model, prompt: Prompt, cache: AbstractContextManager[PositionedCache]) -> float:
    """Mean over the ``continuation`` of KL(masked full cache || ``cache``) in nats: 0 but for rounding.

    Raises CodecError for a block that does not decode, EngineError for what is not finite.
    """
    reference = MaskedCache(model.config.n_layer, model.config.kv_dtype)
    divergences = []
    with cache as tested:
        prefill(model, prompt.ids, tested)
        prefill(model, prompt.ids, reference)
        for token in prompt.continuation:
            reference.visible = [tested.positions(layer) for layer in range(model.config.n_layer)]
            log_probs, expected = (log_softmax(decode_one_token(model, token, each)) for each in (tested, reference))
            divergences.append(float((np.exp(expected) * (expected - log_probs)).sum()))
    return max(0.0, float(np.mean(divergences)))
