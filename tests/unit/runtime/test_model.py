from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.checkpoint import Model, load_model
from h2o_gate_plugin.runtime.model import decode_one_token, hidden_states, next_token_logits, prefill

IDS = (3, 250, 17, 17, 90, 0, 201)

Vector = list[float]


def dot(row: Any, x: Vector) -> float:
    return sum(float(a) * b for a, b in zip(row, x, strict=True))


def product(matrix: Any, x: Vector) -> Vector:
    return [dot(row, x) for row in matrix]


def norm(x: Vector, weight: Any, eps: float) -> Vector:
    scale = 1.0 / math.sqrt(sum(a * a for a in x) / len(x) + eps)
    return [a * scale * float(w) for a, w in zip(x, weight, strict=True)]


def turned(head: Vector, position: int, theta: float) -> Vector:
    half = len(head) // 2
    out = list(head)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(head))
        out[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        out[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return out


def slow_logits(folder: Path, config: Any, ids: tuple[int, ...]) -> list[Vector]:
    """The Llama equations in plain loops over the tensors as stored, one position after the other; K and V rounded to fp16."""
    t = load_file(str(folder / "model.safetensors"))
    d, eps, theta = config.head_dim, config.rms_norm_eps, config.rope_theta
    group = config.n_head // config.n_kv_head
    cache: list[list[tuple[list[Vector], list[Vector]]]] = [[] for _ in range(config.n_layer)]
    out = []
    for position, token in enumerate(ids):
        x = [float(a) for a in t["model.embed_tokens.weight"][token]]
        for layer in range(config.n_layer):
            p = f"model.layers.{layer}."
            h = norm(x, t[p + "input_layernorm.weight"], eps)
            q, k, v = (product(t[f"{p}self_attn.{name}_proj.weight"], h) for name in "qkv")
            keys = [turned(k[g * d : g * d + d], position, theta) for g in range(config.n_kv_head)]
            values = [v[g * d : g * d + d] for g in range(config.n_kv_head)]
            cache[layer].append(
                ([[float(np.float16(a)) for a in head] for head in keys], [[float(np.float16(a)) for a in head] for head in values])
            )
            mixed: Vector = []
            for head in range(config.n_head):
                query = turned(q[head * d : head * d + d], position, theta)
                scores = [dot(past_keys[head // group], query) / math.sqrt(d) for past_keys, _ in cache[layer]]
                weights = [math.exp(s - max(scores)) for s in scores]
                total = sum(weights)
                for i in range(d):
                    mixed.append(sum(w / total * pv[head // group][i] for w, (_, pv) in zip(weights, cache[layer], strict=True)))
            x = [a + b for a, b in zip(x, product(t[p + "self_attn.o_proj.weight"], mixed), strict=True)]
            h = norm(x, t[p + "post_attention_layernorm.weight"], eps)
            gate, up = product(t[p + "mlp.gate_proj.weight"], h), product(t[p + "mlp.up_proj.weight"], h)
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            x = [a + b for a, b in zip(x, product(t[p + "mlp.down_proj.weight"], inner), strict=True)]
        head_weight = t.get("lm_head.weight", t["model.embed_tokens.weight"])
        out.append(product(head_weight, norm(x, t["model.norm.weight"], eps)))
    return out


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "num_key_value_heads": 4, "rope_theta": 500.0}])
def test_logits_equal_a_slow_implementation_in_plain_loops(
    make_checkpoint: Callable[..., Path], make_cache: Callable[[], Any], changes: dict[str, Any]
) -> None:
    folder = make_checkpoint(**changes)
    model = load_model(folder)
    expected = np.array(slow_logits(folder, model.config, IDS))
    hidden = hidden_states(model, IDS, make_cache(), decode=False)
    np.testing.assert_allclose(next_token_logits(model, hidden), expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(prefill(model, IDS, make_cache()), expected[-1], atol=2e-3 * np.abs(expected).max())


def test_decoding_token_by_token_agrees_with_prefill(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    together = next_token_logits(tiny, hidden_states(tiny, IDS, make_cache(), decode=False))
    alone = [prefill(tiny, IDS[:1], cache), *(decode_one_token(tiny, token, cache) for token in IDS[1:])]
    np.testing.assert_allclose(np.stack(alone), together, atol=1e-3 * np.abs(together).max())


def test_a_prompt_of_several_chunks_agrees_with_one_chunk(tiny: Model, make_cache: Callable[[], Any]) -> None:
    ids = tuple(int(i) for i in np.random.default_rng(1).integers(0, 256, 600))
    whole = next_token_logits(tiny, hidden_states(tiny, ids, make_cache(), decode=False)[-1])
    np.testing.assert_allclose(prefill(tiny, ids, make_cache()), whole, atol=2e-3 * np.abs(whole).max())


def test_a_second_prompt_on_the_same_cache_sees_the_first(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, IDS[:4], cache)
    second = prefill(tiny, IDS[4:], cache)
    np.testing.assert_allclose(second, prefill(tiny, IDS, make_cache()), atol=1e-3 * np.abs(second).max())
    assert not np.allclose(second, prefill(tiny, IDS[4:], make_cache()), atol=1e-3)


def test_the_cache_is_shown_probabilities_that_are_causal_and_sum_to_one(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, IDS, cache)
    assert cache.n_ended == 0
    decode_one_token(tiny, 5, cache)
    assert cache.n_ended == 1
    assert [(layer, decode) for layer, _, decode in cache.observed] == [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)]
    for _, probs, decode in cache.observed:
        assert probs.shape == ((4, 1, 8) if decode else (4, 7, 7))
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(axis=-1), 1.0, atol=1e-6)
    assert np.all(np.triu(cache.observed[0][1][0], k=1) == 0.0)


def test_keys_are_stored_after_rope_and_values_without_it(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    prefill(tiny, (9, 9, 9), cache)
    keys, values = cache.keys(0), cache.values(0)  # one token in the first layer: rows differ by position alone
    assert np.array_equal(values[:, 0], values[:, 2])
    assert not np.allclose(keys[:, 0], keys[:, 2], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(keys[:, 0], axis=-1), np.linalg.norm(keys[:, 2], axis=-1), rtol=2e-3)


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
