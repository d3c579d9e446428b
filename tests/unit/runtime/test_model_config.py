from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.model_config import ModelConfig, read_model_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 260,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 16},
}
ABSENT = object()


def read(folder: Path, family: str = "llama", **changes: Any) -> ModelConfig:
    """What is read from the family's config with these changes; ABSENT removes a key."""
    raw = {key: value for key, value in (FAMILIES[family] | changes).items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return read_model_config(folder)


@pytest.mark.parametrize(
    ("family", "head_dim", "qkv_bias", "qk_norm"),
    [("llama", 6, False, False), ("mistral", 6, False, False), ("qwen2", 6, True, False), ("qwen3", 16, False, True)],
)
def test_a_family_settles_what_its_config_does_not_say(tmp_path: Path, family: str, head_dim: int, qkv_bias: bool, qk_norm: bool) -> None:
    config = read(tmp_path, family)
    assert (config.family, config.head_dim, config.qkv_bias, config.qk_norm) == (family, head_dim, qkv_bias, qk_norm)
    assert not config.attention_out_bias


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_bias_puts_a_bias_on_all_four_projections(tmp_path: Path, family: str) -> None:
    config = read(tmp_path, family, attention_bias=True)
    assert (config.qkv_bias, config.attention_out_bias) == (True, True)


def test_a_llama_without_kv_heads_has_as_many_as_heads(tmp_path: Path) -> None:
    assert read(tmp_path, num_key_value_heads=ABSENT).n_kv_head == 4
    assert read(tmp_path, num_key_value_heads=None).n_kv_head == 4


@pytest.mark.parametrize(
    ("family", "key"),
    [
        *(
            ("llama", key)
            for key in (
                "num_hidden_layers",
                "hidden_size",
                "num_attention_heads",
                "intermediate_size",
                "vocab_size",
                "max_position_embeddings",
                "rms_norm_eps",
                "rope_theta",
            )
        ),
        ("mistral", "num_key_value_heads"),
        ("qwen2", "num_key_value_heads"),
        ("qwen3", "num_key_value_heads"),
        ("qwen3", "head_dim"),
    ],
)
def test_a_missing_key_is_an_error_and_never_a_default(tmp_path: Path, family: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json: {key}: expected .*, got None"):
        read(tmp_path, family, **{key: ABSENT})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("mlp_bias", 1),
        ("attention_bias", "yes"),
        ("is_causal", False),
        ("quantization_config", {"bits": 4}),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("layer_types", ["full_attention"]),
        ("layer_types", "full_attention"),
        ("num_hidden_layers", 3.0),
        ("num_hidden_layers", True),
        ("rms_norm_eps", 0),
        ("tie_word_embeddings", "yes"),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("dtype", "float64"),
        ("dtype", ["float16"]),
        ("torch_dtype", "torch.float16"),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_what_the_engine_cannot_run_is_refused_by_name(tmp_path: Path, family: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json: {key}: expected"):
        read(tmp_path, family, **{key: value})


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe", "gemma3_text", "gpt2", None, ["llama"]])
def test_another_model_type_is_refused_with_the_supported_ones(tmp_path: Path, model_type: Any) -> None:
    with pytest.raises(ConfigError, match=r"model_type: expected llama, mistral, qwen2, qwen3, got .*runs no other"):
        read(tmp_path, model_type=model_type)


def test_a_hidden_size_that_the_heads_do_not_divide_needs_a_head_dim(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head_dim: expected an integer >= 1, got None"):
        read(tmp_path, hidden_size=25)
    assert read(tmp_path, hidden_size=25, head_dim=6).head_dim == 6


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_sliding_window_must_not_be_narrower_than_the_context(tmp_path: Path, family: str) -> None:
    for window in (None, 1024, 4096):
        assert read(tmp_path, family, sliding_window=window).context_tokens == 1024
    for bad in (1023, 0, "full", True):
        with pytest.raises(ConfigError, match=r"sliding_window: expected null or >= max_position_embeddings \(1024 tokens\), got"):
            read(tmp_path, family, sliding_window=bad)


def test_a_mistral_without_the_key_has_a_window_of_4096(tmp_path: Path) -> None:
    assert read(tmp_path, "mistral", sliding_window=ABSENT, max_position_embeddings=4096).context_tokens == 4096
    with pytest.raises(ConfigError, match=r"sliding_window: .* got 4096 \(what an absent key means in mistral\)"):
        read(tmp_path, "mistral", sliding_window=ABSENT, max_position_embeddings=4097)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_window_of_a_qwen_counts_only_with_its_flag(tmp_path: Path, family: str) -> None:
    assert read(tmp_path, family, sliding_window=8, use_sliding_window=False, max_window_layers=1).n_layer == 3
    with pytest.raises(ConfigError, match="use_sliding_window: expected false or absent, got True"):
        read(tmp_path, family, sliding_window=8, use_sliding_window=True)


@pytest.mark.parametrize(
    ("changes", "kv_dtype"),
    [
        ({}, "fp16"),
        ({"dtype": None}, "fp16"),
        ({"dtype": "float16"}, "fp16"),
        ({"dtype": "float32"}, "fp16"),
        ({"torch_dtype": "float32"}, "fp16"),
        ({"dtype": "bfloat16"}, "bf16"),
        ({"torch_dtype": "bfloat16"}, "bf16"),
        ({"dtype": "bfloat16", "torch_dtype": "bfloat16"}, "bf16"),
        ({"dtype": None, "torch_dtype": "bfloat16"}, "bf16"),
    ],
)
def test_the_kv_dtype_is_bf16_for_a_bfloat16_model_only(tmp_path: Path, changes: dict[str, Any], kv_dtype: str) -> None:
    assert read(tmp_path, **changes).kv_dtype == kv_dtype


def test_two_dtypes_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch_dtype: expected 'bfloat16' as in dtype, got 'float16'; remove"):
        read(tmp_path, dtype="bfloat16", torch_dtype="float16")


def test_keys_that_do_not_change_the_result_are_accepted(tmp_path: Path) -> None:
    harmless: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.1,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "initializer_range": 0.02,
        "layer_types": ["full_attention"] * 3,
        "pretraining_tp": 2,
        "transformers_version": "5.0.0",
        "use_cache": False,
        "_name_or_path": "somewhere",
    }
    assert read(tmp_path, **harmless) == read(tmp_path)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"torch_dtype": "bfloat16", "rope_theta": 500000.0, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}),
        ("mistral", {"torch_dtype": "bfloat16", "rope_theta": 1000000.0, "sliding_window": None, "attention_dropout": 0.0}),
        ("qwen2", {"torch_dtype": "bfloat16", "use_sliding_window": False, "sliding_window": 512, "max_window_layers": 21}),
        (
            "qwen3",
            {"torch_dtype": "bfloat16", "rope_scaling": None, "attention_bias": False, "sliding_window": None, "max_window_layers": 28},
        ),
    ],
)
def test_configs_in_the_older_style_of_published_models_are_read(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    config = read(tmp_path, family, **changes)
    assert config.kv_dtype == "bf16"
    assert config.rope.theta == changes.get("rope_theta", 10000.0)
