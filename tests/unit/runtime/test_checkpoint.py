from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.checkpoint import load_model

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


def test_fp16_matrices_stay_words_and_the_config_is_read(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    model = load_model(folder)
    assert (model.config.n_layer, model.config.n_kv_head, model.config.context_tokens) == (3, 2, 1024)
    assert model.weights_bytes == (folder / "model.safetensors").stat().st_size
    for layer in model.layers:
        for weight in vars(layer).values():
            assert weight is None or weight.dtype == (np.uint16 if weight.ndim == 2 else np.float32)
    stored = load_file(str(folder / "model.safetensors"))
    assert model.head is model.embedding
    np.testing.assert_array_equal(model.head.view(np.float16), stored["model.embed_tokens.weight"])


@pytest.mark.parametrize("n_layer", [2, 4, 32])
def test_a_layer_count_that_the_weights_do_not_have_is_refused(make_checkpoint: Make, n_layer: int) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, num_hidden_layers=n_layer)
    with pytest.raises(ConfigError, match=r"model\.layers\.\d.*expected"):
        load_model(folder)


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


@pytest.mark.parametrize(("dtype", "name"), [(np.int8, "I8"), (np.float64, "F64")])
def test_a_dtype_that_is_not_read_is_refused(make_checkpoint: Make, dtype: Any, name: str) -> None:
    folder = make_checkpoint()
    rewrite_tensors(folder, lambda tensors: tensors.__setitem__("model.norm.weight", np.ones(24, dtype)))
    with pytest.raises(ConfigError, match=rf"model\.norm\.weight: expected F16 or BF16 or F32, got {name}"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"model_type": "qwen2"}, r"self_attn\.q_proj\.bias"),
        ({"model_type": "llama", "attention_bias": True}, r"self_attn\.q_proj\.bias"),
        ({"model_type": "qwen3"}, r"self_attn\.q_norm\.weight"),
    ],
)
def test_the_tensors_of_a_family_are_required_and_refused_in_another(make_checkpoint: Make, changes: dict[str, Any], name: str) -> None:
    folder = make_checkpoint()
    rewrite_config(folder, **changes)
    with pytest.raises(ConfigError, match=rf"model\.layers\.0\.{name}: expected shape .* got no such tensor"):
        load_model(folder)
    folder = make_checkpoint(**changes)
    assert load_model(folder).config.family == changes["model_type"]
    rewrite_config(folder, model_type="llama", attention_bias=False)
    with pytest.raises(ConfigError, match=r"model\.layers\.0\.self_attn\.\w+\.\w+: expected no such tensor by .*\(llama, 3 layers\)"):
        load_model(folder)


def test_the_redundant_frequencies_of_old_exports_are_skipped(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_tensors(folder, lambda tensors: tensors.__setitem__("model.layers.0.self_attn.rotary_emb.inv_freq", np.ones(4, np.float64)))
    assert load_model(folder).config.n_layer == 3


def test_a_tied_head_that_is_stored_again_is_accepted_in_another_dtype_too(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    rewrite_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].astype(np.float32)}))
    model = load_model(folder)
    assert model.head is model.embedding


def test_a_bfloat16_folder_has_a_bf16_kv_cache(make_checkpoint: Make) -> None:
    assert load_model(make_checkpoint(torch_dtype="bfloat16")).config.kv_dtype == "bf16"


def test_loading_holds_little_more_than_the_weights(make_checkpoint: Make) -> None:
    folder = make_checkpoint(hidden_size=256, intermediate_size=1024, vocab_size=4000, max_position_embeddings=64)
    weights_bytes = (folder / "model.safetensors").stat().st_size
    assert weights_bytes > 6_000_000
    tracemalloc.start()
    model = load_model(folder)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.weights_bytes == weights_bytes
    assert weights_bytes <= peak_bytes < 1.1 * weights_bytes


def test_a_tied_head_that_differs_from_the_embedding_is_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint(tie_word_embeddings=False)
    rewrite_config(folder, tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=r"lm_head\.weight: expected the embedding"):
        load_model(folder)


def test_an_untied_head_is_used(make_checkpoint: Make) -> None:
    folder = make_checkpoint(tie_word_embeddings=False)
    stored = load_file(str(folder / "model.safetensors"))
    np.testing.assert_array_equal(load_model(folder).head.view(np.float16), stored["lm_head.weight"])


def test_missing_files_are_named(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors: file: expected the weights"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: file: expected a readable file, got No such file"):
        load_model(folder)
