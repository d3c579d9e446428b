from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.checkpoint import load_model, read_model_config

Make = Callable[..., Path]


def rewrite_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}), encoding="utf-8")


def rewrite_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = dict(load_file(str(path)))
    change(tensors)
    save_file(tensors, str(path))


def test_weights_become_float32_and_the_config_is_read(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    model = load_model(folder)
    assert (model.config.n_layer, model.config.n_kv_head, model.config.context_tokens) == (3, 2, 1024)
    assert model.weights_bytes == (folder / "model.safetensors").stat().st_size
    assert {array.dtype for layer in model.layers for array in vars(layer).values()} == {np.dtype(np.float32)}
    stored = load_file(str(folder / "model.safetensors"))
    np.testing.assert_array_equal(model.head.T, stored["model.embed_tokens.weight"].astype(np.float32))


@pytest.mark.parametrize("n_layer", [2, 4, 32])
def test_a_layer_count_that_the_weights_do_not_have_is_refused(make_checkpoint: Make, n_layer: int) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, num_hidden_layers=n_layer)
    with pytest.raises(ConfigError, match=r"model\.layers\.\d.*expected"):
        load_model(folder)


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ],
)
def test_a_missing_key_is_an_error_and_never_a_default(make_checkpoint: Make, key: str) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, **{key: "absent"})
    with pytest.raises(ConfigError, match=rf"config\.json: {key}: expected .*, got None"):
        read_model_config(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "qwen2"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("quantization_config", {"bits": 4}),
        ("num_hidden_layers", 3.0),
        ("num_hidden_layers", True),
        ("rms_norm_eps", 0),
        ("tie_word_embeddings", "yes"),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
    ],
)
def test_what_the_engine_cannot_run_is_refused_by_name(make_checkpoint: Make, key: str, value: Any) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, **{key: value})
    with pytest.raises(ConfigError, match=rf"config\.json: {key}: expected"):
        read_model_config(folder)


def test_rope_theta_is_read_from_rope_parameters_of_newer_exports(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, rope_theta="absent", rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    assert read_model_config(folder).rope_theta == 777.0


def test_a_tensor_of_another_shape_is_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, intermediate_size=41)
    with pytest.raises(ConfigError, match=r"mlp\.\w+_proj\.weight: expected shape \(.*41.*\)"):
        load_model(folder)


def test_a_missing_and_an_unexpected_tensor_are_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_tensors(folder, lambda tensors: tensors.__setitem__("model.layers.0.self_attn.q_proj.bias", np.zeros(32, np.float16)))
    with pytest.raises(ConfigError, match=r"q_proj\.bias: expected no such tensor"):
        load_model(folder)
    rewrite_tensors(folder, lambda tensors: [tensors.pop(name) for name in ("model.layers.0.self_attn.q_proj.bias", "model.norm.weight")])
    with pytest.raises(ConfigError, match=r"model\.norm\.weight: expected shape .* got no such tensor"):
        load_model(folder)


def test_a_dtype_that_is_not_read_is_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_tensors(folder, lambda tensors: tensors.__setitem__("model.norm.weight", np.ones(24, np.int8)))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight: expected F16 or F32, got I8"):
        load_model(folder)


def test_a_tied_head_that_differs_from_the_embedding_is_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint(tie_word_embeddings=False)
    rewrite_config(folder, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=r"lm_head\.weight: expected the embedding"):
        load_model(folder)


def test_an_untied_head_is_used(make_checkpoint: Make) -> None:
    folder = make_checkpoint(tie_word_embeddings=False)
    stored = load_file(str(folder / "model.safetensors"))
    np.testing.assert_array_equal(load_model(folder).head.T, stored["lm_head.weight"].astype(np.float32))


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_a_truncated_weights_file_is_refused(make_checkpoint: Make, size: int) -> None:
    path = make_checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"model\.safetensors: file: expected"):
        load_model(path.parent)


def test_missing_files_are_named(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors: file"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: file: expected a readable file, got No such file"):
        load_model(folder)
