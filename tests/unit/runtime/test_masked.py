"""Eviction against its definition: exact but for rounding, and far off when a row or a position is out of place."""

from __future__ import annotations

import numpy as np
import pytest

from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import KvDtype, KvValue, suite_values
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.masked import MaskedCache, masked_kl
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.ops import F32
from h2o_gate_plugin.runtime.prompts import Prompt
from h2o_gate_plugin.runtime.timed_run import kv_shape

KEYS: dict[str, KvValue] = {
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 2,
    "kv_h2o_sink_tokens": 2,
    "kv_h2o_recent_tokens": 8,
    "kv_h2o_update_interval": 4,
    "kv_h2o_trigger_min_tokens": 16,
    "kv_lossless_front_n": 1,
    "kv_lossless_hot_recent_tokens": 4,
}
PROMPT = Prompt("text", tuple(range(40, 140)), tuple(range(100, 124)))
EXACT, WRONG = 1e-7, 1e-6
"""Nats; the random tiny model has nearly flat logits, so that damage is small too."""


def policy(**keys: KvValue) -> KvPolicy:
    return KvPolicy.from_values(suite_values(KEYS | keys, "test"), "test")


class OffByOne(KvCache):
    """Once something was evicted, the model is told a position too small."""

    @property
    def n_seen(self) -> int:
        return super().n_seen - int(len(self.positions(1)) < super().n_seen)


class RowsMoved(KvCache):
    """Two tokens of layer 1 say that they stand where the other does."""

    def positions(self, layer: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        found = super().positions(layer)
        return np.union1d(np.delete(found, 3), [found[3] + 1]) if layer == 1 and len(found) < super().n_seen else found


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_what_is_left_after_eviction_says_what_a_full_cache_says_of_the_same_tokens(tiny: Model, mode: str) -> None:
    assert masked_kl(tiny, PROMPT, KvCache(kv_shape(tiny), policy(kv_lossless_runtime_mode=mode))) < EXACT


@pytest.mark.parametrize("broken", [OffByOne, RowsMoved])
def test_a_row_or_a_position_out_of_place_shows(tiny: Model, broken: type[KvCache]) -> None:
    assert masked_kl(tiny, PROMPT, broken(kv_shape(tiny), policy())) > WRONG


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_without_a_mask_the_reference_is_a_full_cache(tiny: Model, dtype: KvDtype) -> None:
    full = KvPolicy.from_values(suite_values({"kv_h2o_enable": False, "kv_lossless_enable": False}, "test"), "test")
    shape = kv_shape(tiny)
    logits: list[F32] = []
    with KvCache(type(shape)(shape.n_layer, shape.n_kv_head, shape.head_dim, dtype), full) as cache:
        for each in (cache, MaskedCache(shape.n_layer, dtype)):
            prefill(tiny, PROMPT.ids, each)
            logits.append(np.stack([decode_one_token(tiny, token, each) for token in PROMPT.continuation]))
            assert each.n_seen == len(PROMPT.ids) + len(PROMPT.continuation)
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-3)
