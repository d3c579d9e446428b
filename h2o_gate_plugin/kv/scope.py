"""Which layers the lossless store works on, how often, and which of their tokens are cold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from h2o_gate_plugin.kv.shapes import KvPolicy

ScopePart = Literal["front", "kept"]


@dataclass(frozen=True)
class ScopeLayer:
    """``interval``: encode only at every so many-th decode token. ``sampled`` False: in scope, counted as cold, never encoded."""

    layer: int
    part: ScopePart
    interval: int
    sampled: bool


def scope_layers(policy: KvPolicy, n_layer: int) -> tuple[ScopeLayer, ...]:
    """The layers in scope of a resolved policy, in order.

    front: below front_n and not in the H2O range, unless store mode disables it; kept: the H2O range, of which the first
    kept_sample_layers are encoded (0: all). Empty when the store is off.
    """
    if not policy.lossless:
        return ()
    with_front = policy.scope != "h2o_kept" and not (policy.mode == "store" and policy.store_disable_front)
    with_kept = policy.scope != "front_n"
    layers: list[ScopeLayer] = []
    for layer in range(n_layer):
        if policy.in_range(layer):
            if with_kept:
                sampled = policy.kept_sample_layers == 0 or layer - policy.layer_start < policy.kept_sample_layers
                layers.append(ScopeLayer(layer, "kept", max(1, policy.kept_sample_interval), sampled))
        elif with_front and layer < policy.front_n:
            layers.append(ScopeLayer(layer, "front", max(1, policy.front_sample_interval), True))
    return tuple(layers)


def cold_range(policy: KvPolicy, n_tokens: int) -> slice:
    """Indices of the cold tokens among ``n_tokens``: all but the first hot_sink_tokens and the last hot_recent_tokens."""
    start = min(policy.hot_sink_tokens, n_tokens)
    return slice(start, max(start, n_tokens - policy.hot_recent_tokens))
