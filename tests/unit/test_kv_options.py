from __future__ import annotations

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvValue, check_kv_values, engine_values, suite_values


def test_every_default_is_legal() -> None:
    for option in KV_OPTIONS.values():
        for value in (option.engine_default, option.suite_default, option.store_default):
            assert value is None or option.check(value, "table") == value


def test_an_unknown_key_names_the_nearest_legal_one() -> None:
    with pytest.raises(ConfigError, match=r"c\.json: kv_h2o_blok_tokens: unknown key, did you mean 'kv_h2o_block_tokens'\?"):
        check_kv_values({"kv_h2o_blok_tokens": 32}, "c.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kv_h2o_block_tokens", 32.0),
        ("kv_h2o_block_tokens", True),
        ("kv_h2o_block_tokens", "32"),
        ("kv_h2o_block_tokens", 0),
        ("kv_h2o_enable", 1),
        ("kv_h2o_target_mode", "adaptiv"),
        ("kv_h2o_target_keep_ratio", 1.5),
        ("kv_h2o_target_keep_ratio", float("nan")),
        ("kv_lossless_predictors_v", "raw,pair_delta"),
        ("kv_lossless_runtime_mode", None),
    ],
)
def test_a_wrong_value_is_refused_with_place_key_value_and_what_is_allowed(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        check_kv_values({key: value}, "c.json")
    line = str(error.value)
    assert line.startswith(f"c.json: {key}: expected ")
    assert repr(value) in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("kv_lossless_scope", "front_n+h2o_kept", "front_n_and_h2o_kept"),
        ("kv_lossless_predictors_k", "raw, delta_seq", "raw,delta_seq"),
        ("kv_h2o_target_lossy_ratio", 3, 3.0),
        ("kv_h2o_layer_end", -1, -1),
    ],
)
def test_a_legal_value_comes_back_in_its_own_type(key: str, value: KvValue, kept: KvValue) -> None:
    checked = check_kv_values({key: value}, "c.json")[key]
    assert checked == kept
    assert type(checked) is type(kept)


def test_store_mode_takes_its_own_defaults_unless_told_otherwise() -> None:
    full = suite_values({}, "preset")
    store = suite_values({"kv_lossless_runtime_mode": "store"}, "preset")
    told = suite_values({"kv_lossless_runtime_mode": "store", "kv_lossless_store_bootstrap_tokens": 64}, "preset")
    keys = (
        "kv_lossless_front_sample_token_interval",
        "kv_lossless_store_disable_front",
        "kv_lossless_store_bootstrap_tokens",
        "kv_lossless_store_grouped_step_tokens",
    )
    assert [full[key] for key in keys] == [1, False, 128, 128]
    assert [store[key] for key in keys] == [2, True, 32, 256]
    assert told["kv_lossless_store_bootstrap_tokens"] == 64
    assert told["kv_lossless_store_grouped_step_tokens"] == 256


def test_the_engine_alone_has_every_kv_feature_off() -> None:
    values = engine_values({}, "c.json")
    assert values["kv_h2o_enable"] is False
    assert values["kv_lossless_enable"] is False
    assert set(values) == set(KV_OPTIONS)
