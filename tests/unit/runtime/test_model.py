from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.checkpoint import Model, load_model
from h2o_gate_plugin.runtime.model import decode_one_token, prefill

IDS = (3, 250, 17, 17, 90, 0, 201)

Vector = list[float]
Logits = Callable[[Model, tuple[int, ...], Any], Any]


def dot(row: Any, x: Vector) -> float:
    return sum(float(a) * b for a, b in zip(row, x, strict=True))


def product(matrix: Any, x: Vector) -> Vector:
    return [dot(row, x) for row in matrix]


def norm(x: Vector, weight: Any, eps: float) -> Vector:
    scale = 1.0 / math.sqrt(sum(a * a for a in x) / len(x) + eps)
    return [a * scale * float(w) for a, w in zip(x, weight, strict=True)]


def frequency(i: int, head_dim: int, config: Any) -> float:
    """Of the i-th pair, scaled as Llama 3.1's reference code does."""
    plain: float = config.rope.theta ** (-2 * i / head_dim)
    scaling = config.rope.scaling
    if scaling is None:
        return plain
    wavelength, context = 2 * math.pi / plain, scaling.original_context_tokens
    if wavelength < context / scaling.high_freq_factor:
        return plain
    if wavelength > context / scaling.low_freq_factor:
        return float(plain / scaling.factor)
    smooth = (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return float((1 - smooth) * plain / scaling.factor + smooth * plain)


def turned(head: Vector, position: int, config: Any) -> Vector:
    half = len(head) // 2
    out = list(head)
    for i in range(half):
        angle = position * frequency(i, len(head), config)
        out[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        out[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return out


def slow_logits(folder: Path, config: Any, ids: tuple[int, ...]) -> list[Vector]:
    """The families' equations in plain loops over the tensors as stored, one position after the other; K and V rounded to fp16."""
    t = load_file(str(folder / "model.safetensors"))

    def linear(name: str, x: Vector) -> Vector:
        bias = t.get(f"{name}.bias")
        out = product(t[f"{name}.weight"], x)
        return out if bias is None else [a + float(b) for a, b in zip(out, bias, strict=True)]

    def rotated(norm_name: str, x: Vector, position: int) -> list[Vector]:
        heads = [x[start : start + d] for start in range(0, len(x), d)]
        weight = t.get(norm_name)
        return [turned(head if weight is None else norm(head, weight, eps), position, config) for head in heads]

    d, eps = config.head_dim, config.rms_norm_eps
    group = config.n_head // config.n_kv_head
    cache: list[list[tuple[list[Vector], list[Vector]]]] = [[] for _ in range(config.n_layer)]
    out = []
    for position, token in enumerate(ids):
        x = [float(a) for a in t["model.embed_tokens.weight"][token]]
        for layer in range(config.n_layer):
            p = f"model.layers.{layer}."
            h = norm(x, t[p + "input_layernorm.weight"], eps)
            q, k, v = (linear(f"{p}self_attn.{name}_proj", h) for name in "qkv")
            queries, keys = rotated(f"{p}self_attn.q_norm.weight", q, position), rotated(f"{p}self_attn.k_norm.weight", k, position)
            values = [v[g * d : g * d + d] for g in range(config.n_kv_head)]
            cache[layer].append(
                ([[float(np.float16(a)) for a in head] for head in keys], [[float(np.float16(a)) for a in head] for head in values])
            )
            mixed: Vector = []
            for head in range(config.n_head):
                scores = [dot(past_keys[head // group], queries[head]) / math.sqrt(d) for past_keys, _ in cache[layer]]
                weights = [math.exp(s - max(scores)) for s in scores]
                total = sum(weights)
                for i in range(d):
                    mixed.append(sum(w / total * pv[head // group][i] for w, (_, pv) in zip(weights, cache[layer], strict=True)))
            x = [a + b for a, b in zip(x, linear(p + "self_attn.o_proj", mixed), strict=True)]
            h = norm(x, t[p + "post_attention_layernorm.weight"], eps)
            gate, up = product(t[p + "mlp.gate_proj.weight"], h), product(t[p + "mlp.up_proj.weight"], h)
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            x = [a + b for a, b in zip(x, product(t[p + "mlp.down_proj.weight"], inner), strict=True)]
        head_weight = t.get("lm_head.weight", t["model.embed_tokens.weight"])
        out.append(product(head_weight, norm(x, t["model.norm.weight"], eps)))
    return out


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False, "num_key_value_heads": 4, "rope_theta": 500.0},
        {"attention_bias": True, "rope_scaling": LLAMA3},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 4},
    ],
    ids=["llama", "untied-mha", "biased-llama3-rope", "qwen2", "qwen3"],
)
def test_logits_equal_a_slow_implementation_in_plain_loops(
    make_checkpoint: Callable[..., Path], make_cache: Callable[[], Any], logits_of_prompt: Logits, changes: dict[str, Any]
) -> None:
    folder = make_checkpoint(**changes)
    model = load_model(folder)
    expected = np.array(slow_logits(folder, model.config, IDS))
    np.testing.assert_allclose(logits_of_prompt(model, IDS, make_cache()), expected, atol=2e-3 * np.abs(expected).max())
    cache = make_cache()
    np.testing.assert_allclose(prefill(model, IDS[:-1], cache), expected[-2], atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(decode_one_token(model, IDS[-1], cache), expected[-1], atol=2e-3 * np.abs(expected).max())


def test_decoding_token_by_token_agrees_with_prefill(tiny: Model, make_cache: Callable[[], Any], logits_of_prompt: Logits) -> None:
    cache = make_cache()
    together = logits_of_prompt(tiny, IDS, make_cache())
    alone = [prefill(tiny, IDS[:1], cache), *(decode_one_token(tiny, token, cache) for token in IDS[1:])]
    np.testing.assert_allclose(np.stack(alone), together, atol=1e-3 * np.abs(together).max())


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_running_a_model_leaves_its_weights_as_they_were(
    make_checkpoint: Callable[..., Path], make_cache: Callable[[], Any], stored: Any
) -> None:
    folder = make_checkpoint()
    path = folder / "model.safetensors"
    save_file({name: tensor.astype(stored) for name, tensor in load_file(str(path)).items()}, str(path))
    model = load_model(folder)
    before = [array.copy() for array in (model.embedding, model.norm, *vars(model.layers[0]).values()) if array is not None]
    cache = make_cache()
    prefill(model, IDS, cache)
    decode_one_token(model, IDS[0], cache)
    after = [array for array in (model.embedding, model.norm, *vars(model.layers[0]).values()) if array is not None]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_prompt_of_several_chunks_agrees_with_one_chunk(tiny: Model, make_cache: Callable[[], Any], logits_of_prompt: Logits) -> None:
    ids = tuple(int(i) for i in np.random.default_rng(1).integers(0, 256, 600))
    whole = logits_of_prompt(tiny, ids, make_cache())[-1]
    np.testing.assert_allclose(prefill(tiny, ids, make_cache()), whole, atol=2e-3 * np.abs(whole).max())


def test_a_second_prompt_on_the_same_cache_sees_the_first(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, IDS[:4], cache)
    second = prefill(tiny, IDS[4:], cache)
    np.testing.assert_allclose(second, prefill(tiny, IDS, make_cache()), atol=1e-3 * np.abs(second).max())
    assert not np.allclose(second, prefill(tiny, IDS[4:], make_cache()), atol=1e-3)


def test_every_layer_attends_once_per_chunk_and_token_and_the_end_of_a_token_is_told(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, IDS, cache)
    assert cache.n_ended == 0
    decode_one_token(tiny, 5, cache)
    assert cache.n_ended == 1
    assert cache.attended == [(0, 7, False), (1, 7, False), (2, 7, False), (0, 1, True), (1, 1, True), (2, 1, True)]


def test_keys_are_stored_after_rope_and_values_without_it(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, (9, 9, 9), cache)
    keys, values = cache.keys(0), cache.values(0)  # one token in the first layer: rows differ by position alone
    assert np.array_equal(values[0], values[2])
    assert not np.allclose(keys[0], keys[2], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(keys[0], axis=-1), np.linalg.norm(keys[2], axis=-1), rtol=2e-3)


def test_more_tokens_than_the_context_are_refused(make_checkpoint: Callable[..., Path], make_cache: Callable[[], Any]) -> None:
    model, cache = load_model(make_checkpoint(max_position_embeddings=8)), make_cache()
    prefill(model, IDS, cache)
    decode_one_token(model, 1, cache)
    with pytest.raises(ConfigError, match="expected at most 8 tokens"):
        decode_one_token(model, 1, cache)


def test_a_token_id_outside_the_vocabulary_is_refused(tiny: Model, make_cache: Callable[[], Any]) -> None:
    for bad in (-1, 260):
        with pytest.raises(ConfigError, match="token id"):
            prefill(tiny, (1, bad), make_cache())


def test_an_empty_prompt_is_refused(tiny: Model, make_cache: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="at least 1 token"):
        prefill(tiny, (), make_cache())
