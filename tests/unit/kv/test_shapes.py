"""The policy holds every kv_ key, and is resolved against the model's layers."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvValue, engine_values

ON: dict[str, KvValue] = {"kv_lossless_enable": True, "kv_lossless_runtime_enable": True, "kv_lossless_codec": "gear_delta"}


def another_value(key: str) -> KvValue:
    """A legal value that is not the engine's default."""
    option = KV_OPTIONS[key]
    default = option.engine_default
    if option.type == "bool":
        return not default
    if option.type in ("word", "words"):
        return next(word for word in option.words if word != default)
    assert isinstance(default, int | float)
    return default * 0.5 if option.type == "float" and option.high is not None else default + 2


@pytest.mark.parametrize(
    "key", [key for key, option in KV_OPTIONS.items() if option.type not in ("word", "words") or len(option.words) > 1]
)
def test_every_key_changes_the_policy(key: str) -> None:
    store: dict[str, KvValue] = {"kv_lossless_runtime_mode": "store"} if "store" in key else {}
    base = ON | store
    changed = base | {key: KV_OPTIONS[key].engine_default if key in ON else another_value(key)}
    assert asdict(KvPolicy.from_values(changed)) != asdict(KvPolicy.from_values(base))


def test_the_engine_defaults_do_nothing() -> None:
    policy = KvPolicy.from_values(engine_values({}, "x"))
    assert not policy.active
    assert policy.resolved(1) == KvPolicy.from_values({"kv_h2o_layer_end": 0})


@pytest.mark.parametrize("off", [*ON, "kv_lossless_scope"])
def test_the_lossless_store_needs_all_of_its_switches(off: str) -> None:
    values = ON | {off: "none" if off in ("kv_lossless_codec", "kv_lossless_scope") else False}
    assert KvPolicy.from_values(ON).lossless
    assert not KvPolicy.from_values(values).lossless


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="preset x: kv_h2o_sink: unknown key"):
        KvPolicy.from_values({"kv_h2o_sink": 1}, "preset x")


@pytest.mark.parametrize(("start", "end"), [(3, -1), (0, 3), (2, 1)])
def test_a_layer_range_that_the_model_does_not_have_is_refused(start: int, end: int) -> None:
    values: dict[str, KvValue] = {"kv_h2o_enable": True, "kv_h2o_layer_start": start, "kv_h2o_layer_end": end}
    with pytest.raises(ConfigError, match="kv_h2o_layer_start and _end: expected layers of 0 to 2"):
        KvPolicy.from_values(values).resolved(3)


def test_more_front_layers_than_the_model_has_are_refused_only_where_they_count() -> None:
    values = ON | {"kv_lossless_front_n": 4}
    with pytest.raises(ConfigError, match="kv_lossless_front_n: expected at most 3"):
        KvPolicy.from_values(values).resolved(3)
    assert KvPolicy.from_values(values | {"kv_lossless_scope": "h2o_kept"}).resolved(3).front_n == 4


def test_the_last_layer_is_meant_by_minus_one() -> None:
    policy = KvPolicy.from_values({"kv_h2o_enable": True, "kv_h2o_layer_start": 1}).resolved(4)
    assert [policy.in_range(layer) for layer in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(("ratio", "kv", "kept"), [(0.3, 10, 3), (0.3, 11, 4), (0.1, 30, 3), (1.0, 7, 7), (0.07, 100, 7)])
def test_the_static_target_is_rounded_up_in_decimal(ratio: float, kv: int, kept: int) -> None:
    policy = KvPolicy.from_values({"kv_h2o_target_mode": "static", "kv_h2o_target_keep_ratio": ratio})
    assert policy.wanted_tokens(kv, 10 * kv) == kept


@pytest.mark.parametrize(("ratio", "seen", "kept"), [(3.2, 513, 160), (3.2, 1025, 320), (3.2, 1024, 320), (1.1, 11, 10), (3.0, 2, 0)])
def test_the_adaptive_target_is_rounded_down_and_counts_all_tokens_seen(ratio: float, seen: int, kept: int) -> None:
    policy = KvPolicy.from_values({"kv_h2o_target_lossy_ratio": ratio})
    assert policy.wanted_tokens(1, seen) == kept


def test_a_token_costs_four_bytes_a_channel() -> None:
    assert KvShape(n_layer=8, n_kv_head=2, head_dim=64).bytes_per_token == 512
