"""Folders as transformers writes them: random tiny models of every family, and their logits beside transformers' own (extra `compare`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.runtime.checkpoint import load_model
from h2o_gate_plugin.runtime.model import decode_one_token
from h2o_gate_plugin.runtime.model_config import read_model_config
from h2o_gate_plugin.runtime.weights import widened

IDS = tuple(int(token) for token in np.random.default_rng(7).integers(0, 96, 48))
N_PROMPT = 30
SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0}
MHA = {"num_key_value_heads": 4}
TIED = {"tie_word_embeddings": True}
CASES: dict[str, tuple[str, str, dict[str, Any], bool]] = {  # family, dtype, config, sharded
    "llama-fp32-sharded": ("llama", "float32", {}, True),
    "llama-fp32-linear-rope": ("llama", "float32", {"rope_parameters": LINEAR, **MHA}, False),
    "llama-bf16-llama3-rope": ("llama", "bfloat16", {"rope_parameters": LLAMA3, **TIED}, False),
    "llama-bf16-biased": ("llama", "bfloat16", {"attention_bias": True, "head_dim": 20}, True),
    "mistral-fp16-tied-sharded": ("mistral", "float16", {"sliding_window": None, "head_dim": 16, **TIED}, True),
    "mistral-bf16-wide-window": ("mistral", "bfloat16", {"sliding_window": 64, **MHA}, False),
    "qwen2-fp16": ("qwen2", "float16", {}, False),
    "qwen2-bf16-tied-sharded": ("qwen2", "bfloat16", {**MHA, **TIED}, True),
    "qwen3-bf16-tied": ("qwen3", "bfloat16", {"head_dim": 24, **TIED}, False),
    "qwen3-fp32-biased-sharded": ("qwen3", "float32", {"head_dim": 8, "attention_bias": True, **MHA}, True),
}


def libraries() -> tuple[Any, Any]:
    """torch and transformers, imported when a test runs: that takes seconds."""
    reason = "the extra `compare` is not installed"
    return pytest.importorskip("torch", reason=reason), pytest.importorskip("transformers", reason=reason)


def save_random(folder: Path, family: str, dtype: str, changes: dict[str, Any], sharded: bool) -> None:
    """Weights large enough that every part of the model shows in the logits."""
    torch, transformers = libraries()
    config = transformers.AutoConfig.for_model(family, **(SHAPE | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre, spread = (0.0, 0.25) if parameter.ndim == 2 else (0.0, 0.5) if name.endswith("bias") else (1.0, 0.3)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + centre)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if sharded else {}))


def logits_of_transformers(folder: Path) -> Any:
    torch, transformers = libraries()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.fixture
def logits_of_engine(unrounded_cache: Callable[[int], Any], logits_of_prompt: Callable[..., Any]) -> Callable[[Path], Any]:
    """A prompt at once and the rest token by token, over a float32 cache: [n, vocab]."""

    def run(folder: Path) -> Any:
        model = load_model(folder)
        cache = unrounded_cache(model.config.n_layer)
        prompt = logits_of_prompt(model, IDS[:N_PROMPT], cache)
        return np.concatenate([prompt, [decode_one_token(model, token, cache) for token in IDS[N_PROMPT:]]])

    return run


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(tmp_path: Path, logits_of_engine: Callable[[Path], Any], case: str) -> None:
    family, dtype, changes, sharded = CASES[case]
    save_random(tmp_path, family, dtype, changes, sharded)
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    assert read_model_config(tmp_path).kv_dtype == ("bf16" if dtype == "bfloat16" else "fp16")
    expected = logits_of_transformers(tmp_path)
    assert expected.std() > 1.0
    np.testing.assert_allclose(logits_of_engine(tmp_path), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scaling", [LLAMA3, LINEAR], ids=["llama3", "linear"])
def test_rope_scaling_moves_the_logits_far_beyond_the_tolerance(
    tmp_path: Path, logits_of_engine: Callable[[Path], Any], scaling: dict[str, Any]
) -> None:
    save_random(tmp_path, "llama", "float32", {"rope_parameters": scaling}, False)
    scaled = logits_of_engine(tmp_path)
    path = tmp_path / "config.json"
    plain = {"rope_type": "default", "rope_theta": scaling["rope_theta"]}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"rope_parameters": plain}), encoding="utf-8")
    assert np.abs(logits_of_engine(tmp_path) - scaled).max() > 0.1


@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_weight_is_read_exactly(tmp_path: Path, family: str, dtype: str, sharded: bool) -> None:
    save_random(tmp_path, family, dtype, {"head_dim": 16, "sliding_window": None}, sharded)
    model = load_model(tmp_path)
    _, transformers = libraries()
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    state = {name: tensor.float().numpy() for name, tensor in saved.state_dict().items()}
    attention, mlp = "model.layers.{}.self_attn.{}_proj.{}", "model.layers.{}.mlp.{}_proj.weight"
    for index, layer in enumerate(model.layers):
        for ours, theirs in (
            (layer.qkv, [attention.format(index, part, "weight") for part in "qkv"]),
            (layer.attention_out, [attention.format(index, "o", "weight")]),
            (layer.gate_up, [mlp.format(index, "gate"), mlp.format(index, "up")]),
            (layer.mlp_down, [mlp.format(index, "down")]),
        ):
            assert np.array_equal(widened(ours), np.concatenate([state[name] for name in theirs])), theirs
        assert (layer.qkv_bias is not None, layer.query_norm is not None) == (family == "qwen2", family == "qwen3")
        if layer.qkv_bias is not None:
            assert np.array_equal(layer.qkv_bias, np.concatenate([state[attention.format(index, part, "bias")] for part in "qkv"]))
        if layer.query_norm is not None and layer.key_norm is not None:
            assert np.array_equal(layer.query_norm, state[f"model.layers.{index}.self_attn.q_norm.weight"])
            assert np.array_equal(layer.key_norm, state[f"model.layers.{index}.self_attn.k_norm.weight"])
    assert np.array_equal(widened(model.embedding), state["model.embed_tokens.weight"])
    assert np.array_equal(widened(model.head), state["lm_head.weight"])


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 500.0}, LLAMA3, LINEAR], ids=lambda rope: rope["rope_type"])
def test_the_older_config_keys_mean_the_same(tmp_path: Path, rope: dict[str, Any]) -> None:
    save_random(tmp_path, "llama", "bfloat16", {"rope_parameters": rope}, False)
    newer = read_model_config(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    raw |= {"rope_theta": rope["rope_theta"], "rope_scaling": None if rope["rope_type"] == "default" else scaling}
    raw["torch_dtype"] = raw.pop("dtype")
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert read_model_config(tmp_path) == newer
    assert newer.rope.theta == rope["rope_theta"]
    assert newer.kv_dtype == "bf16"
