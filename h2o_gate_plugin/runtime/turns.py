"""Two turns on one cache: what the lossless store left of the first must still be exact in the second."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.codec import Part
from h2o_gate_plugin.kv.layer import PARTS
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv.words import U16
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import teacher_forced_logits
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.ops import F32
from h2o_gate_plugin.runtime.prompts import Prompt

FIRST_DECODE_TOKENS = 48
SECOND_TURN_TOKENS = (64, 32)
"""Tokens of the second prompt, and decoded after it: three plans of the suite's update interval before it, two after."""


class TurnCache(AttentionCache, Protocol):
    """What `kv.cache.KvCache` says of itself between turns."""

    def finish(self) -> object:
        """End a turn."""

    def positions(self, layer: int) -> npt.NDArray[np.int64]:
        """Absolute positions of the kept tokens, sorted."""

    def words(self, layer: int, part: Part) -> U16:
        """Their K or V: u16 [n_seq, n_kv_head, head_dim]."""


OpenTurnCache = Callable[[KvPolicy], AbstractContextManager[TurnCache]]


def turns_mismatch_rows(model: Model, first: Prompt, second: Prompt, policy: KvPolicy, open_cache: OpenTurnCache) -> int:
    """K rows and V rows that differ from those of the same eviction with nothing encoded; one more when the last logits differ.

    Each of two caches is fed ``first`` and then ``second``: the prompt, then its continuation one token at a time. A row that only one
    of them kept differs. Raises EngineError for logits that are not finite, CodecError for a block that does not decode.
    """
    with open_cache(policy) as cache, open_cache(replace(policy, lossless=False)) as plain:
        logits, plain_logits = (_two_turns(model, first, second, each) for each in (cache, plain))
        n_rows = sum(_mismatch_rows(cache, plain, layer) for layer in range(model.config.n_layer))
    return n_rows + (logits.tobytes() != plain_logits.tobytes())


def _two_turns(model: Model, first: Prompt, second: Prompt, cache: TurnCache) -> F32:
    """The last token's logits [vocab]."""
    for prompt in (first, second):
        prefill(model, prompt.ids, cache)
        logits = teacher_forced_logits(model, prompt.continuation, cache)
        cache.finish()
    last: F32 = logits[-1]
    return last


def _mismatch_rows(cache: TurnCache, plain: TurnCache, layer: int) -> int:
    positions, plain_positions = cache.positions(layer), plain.positions(layer)
    shared, rows, plain_rows = np.intersect1d(positions, plain_positions, assume_unique=True, return_indices=True)
    n_rows = len(PARTS) * (len(positions) + len(plain_positions) - 2 * len(shared))
    for part in PARTS:
        differs = cache.words(layer, part)[rows] != plain.words(layer, part)[plain_rows]
        n_rows += int(np.count_nonzero(differs.any(axis=(1, 2))))
    return n_rows
