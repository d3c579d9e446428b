"""Faults in what is kept: positions, scores and plans. Memory and ratios stay as they should be; the text does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import h2o_gate_plugin.kv.cache as cache_module
import h2o_gate_plugin.kv.eviction as eviction_module
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.eviction import F64, Indices, Plan, plan_keep
from h2o_gate_plugin.kv.layer import LayerKv
from h2o_gate_plugin.kv.shapes import KvPolicy

from .planting import Plant, replace


def values_scrambled() -> None:
    """After every compaction the V rows of a layer change places among its kept tokens."""
    compact = LayerKv.compact

    def scrambled(self: LayerKv, *args: Any) -> tuple[int, ...]:
        gone = compact(self, *args)
        rows = self._raw["v"][: self._n_raw]
        rows[:] = rows[np.random.default_rng(self.layer).permutation(len(rows))]
        return gone

    replace(LayerKv, "compact", scrambled)


def plan_of_first_layer() -> None:
    """Every layer of the range applies the plan of the range's first layer; the layers before it are spared."""
    _share_first_plan(with_front=False)


def plan_of_first_layer_everywhere() -> None:
    """One plan for all layers: those before the range are evicted too."""
    _share_first_plan(with_front=True)


def _share_first_plan(with_front: bool) -> None:
    evict = KvCache._evict
    shared: list[Plan] = []
    own: list[bool] = [True]

    def planned(scores: F64, seen_tokens: int, policy: KvPolicy) -> Plan:
        if own[0] or shared[0].kv_tokens != len(scores):
            shared[:] = [plan_keep(scores, seen_tokens, policy)]
        return shared[0]

    def evict_alike(self: KvCache, layer: int) -> None:
        own[0] = layer == self.policy.layer_start
        evict(self, layer)
        for front in range(layer) if own[0] and with_front else ():
            if self._layers[front].n_tokens == shared[0].kv_tokens:
                self._layers[front].compact(shared[0].kept, 0, self._store.read_group)

    replace(cache_module, "plan_keep", planned)
    replace(KvCache, "_evict", evict_alike)


def plan_of_next_layer() -> None:
    """Every layer ranks its tokens by the scores of the layer above it, the last one by its own."""
    evict = KvCache._evict
    lent: list[F64] = []

    def planned(scores: F64, seen_tokens: int, policy: KvPolicy) -> Plan:
        return plan_keep(lent[0] if lent and len(lent[0]) == len(scores) else scores, seen_tokens, policy)

    def evict_by_next(self: KvCache, layer: int) -> None:
        lent[:] = [np.append(self._layers[layer + 1].scores, 0.0)] if layer < self.policy.layer_end else []  # it has not seen the token yet
        evict(self, layer)

    replace(cache_module, "plan_keep", planned)
    replace(KvCache, "_evict", evict_by_next)


def positions_off_by_one() -> None:
    """Once something was evicted, queries and keys are turned for the position before their own."""
    _count_positions(lambda cache: cache._layers[-1].seen_tokens - 1)


def positions_restart_at_kept() -> None:
    """Once something was evicted, a token's position is the number of tokens kept before it."""
    _count_positions(lambda cache: cache._layers[-1].n_tokens)


def _count_positions(count: Any) -> None:
    def n_seen(self: KvCache) -> int:
        evicted = any(plan is not None and plan.evicted_tokens for plan in self._plans)
        return int(count(self) if evicted else self._layers[-1].seen_tokens)

    replace(KvCache, "n_seen", property(n_seen))


def kept_set_frozen() -> None:
    """Once there is a plan, every new token is evicted as soon as it has been attended from."""
    when_due = KvCache._plan_when_due

    def freeze(self: KvCache, layer: int) -> None:
        when_due(self, layer)
        kv = self._layers[layer]
        if self._plans[layer] is not None:
            kv.compact(np.arange(kv.n_tokens - 1), self.policy.update_interval, self._store.read_group)

    replace(KvCache, "_plan_when_due", freeze)


def scores_are_noise() -> None:
    """Plans rank tokens by numbers that have nothing to do with attention."""
    _rank_by(lambda scores, seen_tokens: np.random.default_rng(seen_tokens).random(len(scores)))


def scores_of_wrong_dtype() -> None:
    """The buffer of float64 scores is read as float32: every other number is the low half of a mantissa."""
    _rank_by(lambda scores, seen_tokens: np.nan_to_num(scores.view(np.float32)[: len(scores)]).astype(np.float64))


def ties_evict_the_newer() -> None:
    """All scores are equal, and of equals the older one stays, so that a plan keeps the start of the prompt."""

    def older_first(scores: F64) -> Indices:
        order: Indices = np.argsort(-scores, kind="stable")
        return order

    _rank_by(lambda scores, seen_tokens: np.zeros(len(scores)))
    replace(eviction_module, "_best_first", older_first)


def _rank_by(score: Any) -> None:
    def planned(scores: F64, seen_tokens: int, policy: KvPolicy) -> Plan:
        return plan_keep(score(scores, seen_tokens) if policy.selection == "heavy" else scores, seen_tokens, policy)

    replace(cache_module, "plan_keep", planned)


PLANTS: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        values_scrambled,
        plan_of_first_layer,
        plan_of_first_layer_everywhere,
        plan_of_next_layer,
        positions_off_by_one,
        positions_restart_at_kept,
        kept_set_frozen,
        scores_are_noise,
        scores_of_wrong_dtype,
        ties_evict_the_newer,
    )
}
