"""Which layers are in scope, and which tokens are cold."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.kv.scope import cold_range, scope_layers
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import KvValue, suite_values


def parts(**changes: KvValue) -> dict[int, str]:
    values = suite_values({f"kv_{key}": value for key, value in changes.items()}, "x")
    return {entry.layer: entry.part for entry in scope_layers(KvPolicy.from_values(values).resolved(5), 5)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {0: "front", 1: "front", 2: "kept", 3: "kept", 4: "kept"}),
        ({"lossless_scope": "front_n"}, {0: "front", 1: "front"}),
        ({"lossless_scope": "h2o_kept"}, {2: "kept", 3: "kept", 4: "kept"}),
        ({"lossless_scope": "none"}, {}),
        ({"lossless_enable": False}, {}),
        ({"lossless_front_n": 4}, {0: "front", 1: "front", 2: "kept", 3: "kept", 4: "kept"}),
        ({"lossless_front_n": 4, "lossless_scope": "front_n"}, {0: "front", 1: "front"}),
        ({"h2o_enable": False, "lossless_front_n": 3}, {0: "front", 1: "front", 2: "front"}),
        ({"h2o_layer_start": 1, "h2o_layer_end": 2}, {0: "front", 1: "kept", 2: "kept"}),
        ({"lossless_runtime_mode": "store"}, {2: "kept", 3: "kept", 4: "kept"}),
        (
            {"lossless_runtime_mode": "store", "lossless_store_disable_front": False},
            {0: "front", 1: "front", 2: "kept", 3: "kept", 4: "kept"},
        ),
        ({"lossless_store_disable_front": True}, {0: "front", 1: "front", 2: "kept", 3: "kept", 4: "kept"}),
    ],
)
def test_the_scope_follows_the_keys(changes: dict[str, KvValue], expected: dict[int, str]) -> None:
    assert parts(**changes) == expected


@pytest.mark.parametrize(("sampled", "encoded"), [(0, [2, 3, 4]), (1, [2]), (2, [2, 3]), (9, [2, 3, 4])])
def test_the_first_kept_layers_are_sampled_and_the_others_stay_in_scope(sampled: int, encoded: list[int]) -> None:
    values = suite_values({"kv_lossless_kept_sample_layers": sampled}, "x")
    kept = [entry for entry in scope_layers(KvPolicy.from_values(values).resolved(5), 5) if entry.part == "kept"]
    assert [entry.layer for entry in kept] == [2, 3, 4]
    assert [entry.layer for entry in kept if entry.sampled] == encoded


def test_an_interval_of_zero_means_every_token() -> None:
    values = suite_values({"kv_lossless_kept_sample_token_interval": 0, "kv_lossless_front_sample_token_interval": 3}, "x")
    assert {entry.part: entry.interval for entry in scope_layers(KvPolicy.from_values(values).resolved(5), 5)} == {"front": 3, "kept": 1}


@pytest.mark.parametrize(("n_tokens", "cold"), [(0, []), (3, []), (7, []), (8, [2]), (10, [2, 3, 4])])
def test_cold_lies_between_the_hot_sink_and_the_hot_recent_tokens(n_tokens: int, cold: list[int]) -> None:
    policy = KvPolicy.from_values({"kv_lossless_hot_sink_tokens": 2, "kv_lossless_hot_recent_tokens": 5})
    assert list(range(n_tokens))[cold_range(policy, n_tokens)] == cold
