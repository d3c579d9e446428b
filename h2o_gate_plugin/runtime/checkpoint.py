"""Load a Hugging Face style Llama folder: config.json and model.safetensors, each checked against the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.json_object import read_json_object
from h2o_gate_plugin.runtime.ops import F32, rope_tables

READABLE_DTYPES = ("F16", "F32")
WEIGHTS_FILE = "model.safetensors"
REDUNDANT_TENSOR_END = "rotary_emb.inv_freq"
"""Old exports carry RoPE's frequencies as a tensor; they follow from rope_theta."""

_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model; ``context_tokens`` is max_position_embeddings."""

    folder: Path
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    context_tokens: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool


@dataclass(frozen=True)
class LayerWeights:
    """float32, input-major so that ``x @ w`` streams each matrix once."""

    attention_norm: F32  # [hidden]
    qkv: F32  # [hidden, (n_head + 2 n_kv_head) * head_dim]
    attention_out: F32  # [n_head * head_dim, hidden]
    mlp_norm: F32  # [hidden]
    gate_up: F32  # [hidden, 2 * intermediate]
    mlp_down: F32  # [intermediate, hidden]


@dataclass(frozen=True)
class Model:
    config: ModelConfig
    embedding: F32  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: F32  # [hidden]
    head: F32  # [hidden, vocab]
    cos: F32  # [context, 1, 2, head_dim / 2]
    sin: F32
    weights_bytes: int  # size of the weights file


def load_model(folder: Path) -> Model:
    """Read and check the folder. Raises ConfigError naming the file and what does not fit."""
    config = read_model_config(folder)
    path = folder / WEIGHTS_FILE
    tensors = _read_tensors(path, config)
    if config.tied and "lm_head.weight" in tensors and not np.array_equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]):
        raise ConfigError(f"{path}: lm_head.weight: expected the embedding (tie_word_embeddings is true), got other values")
    embedding = tensors["model.embed_tokens.weight"]
    head = embedding if config.tied else tensors["lm_head.weight"]
    cos, sin = rope_tables(config.context_tokens, config.head_dim, config.rope_theta)
    return Model(
        config=config,
        embedding=embedding,
        layers=tuple(_layer(tensors, f"model.layers.{index}.") for index in range(config.n_layer)),
        norm=tensors["model.norm.weight"],
        head=np.ascontiguousarray(head.T),
        cos=cos,
        sin=sin,
        weights_bytes=path.stat().st_size,
    )


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json; a missing layer count is an error, never a default. Raises ConfigError."""
    path = folder / "config.json"
    raw = read_json_object(path)
    for key, allowed in _SUPPORTED.items():
        value = raw.get(key)
        if value not in allowed and not (key == "rope_scaling" and _is_default_rope(value)):
            raise ConfigError(f"{path}: {key}: expected {_words(allowed)}, got {value!r}; this engine runs plain Llama models only")
    n_head = _count(raw, "num_attention_heads", path)
    hidden_size = _count(raw, "hidden_size", path)
    config = ModelConfig(
        folder=folder,
        n_layer=_count(raw, "num_hidden_layers", path),
        n_head=n_head,
        n_kv_head=_count(raw, "num_key_value_heads", path, n_head),
        head_dim=_count(raw, "head_dim", path, hidden_size // n_head),
        hidden_size=hidden_size,
        intermediate_size=_count(raw, "intermediate_size", path),
        vocab_size=_count(raw, "vocab_size", path),
        context_tokens=_count(raw, "max_position_embeddings", path),
        rms_norm_eps=_positive(raw, "rms_norm_eps", path),
        rope_theta=_positive(_rope_parameters(raw, path), "rope_theta", path),
        tied=_flag(raw, "tie_word_embeddings", path),
    )
    if config.n_head % config.n_kv_head:
        raise ConfigError(f"{path}: num_key_value_heads: expected a divisor of {config.n_head} heads, got {config.n_kv_head}")
    if config.head_dim % 2:
        raise ConfigError(f"{path}: head_dim: expected an even number (RoPE turns pairs), got {config.head_dim}")
    return config


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint of this shape must hold, in Hugging Face's names and [out, in] layout."""
    hidden, inner = config.hidden_size, config.intermediate_size
    n_query, n_kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.n_layer):
        prefix = f"model.layers.{index}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (n_query, hidden),
            f"{prefix}self_attn.k_proj.weight": (n_kv, hidden),
            f"{prefix}self_attn.v_proj.weight": (n_kv, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, n_query),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
        }
    return shapes


def _read_tensors(path: Path, config: ModelConfig) -> dict[str, F32]:
    try:
        with safe_open(str(path), framework="numpy") as file:
            _check_tensors(dict(_described(file)), path, config)
            return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except OSError as err:
        raise ConfigError(f"{path}: file: expected a readable safetensors file, got {err}; one unsharded file is read") from err
    except SafetensorError as err:
        raise ConfigError(f"{path}: file: expected safetensors, got {err}; copy or export the weights again") from err


def _described(file: Any) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    for name in file.keys():  # noqa: SIM118 (no mapping)
        part = file.get_slice(name)
        yield name, (part.get_dtype(), tuple(part.get_shape()))


def _check_tensors(found: Mapping[str, tuple[str, tuple[int, ...]]], path: Path, config: ModelConfig) -> None:
    expected = expected_shapes(config)
    optional = {"lm_head.weight": (config.vocab_size, config.hidden_size)} if config.tied else {}
    by_config = f"by {config.folder / 'config.json'} ({config.n_layer} layers)"
    for name, shape in expected.items():
        if name not in found:
            raise ConfigError(f"{path}: {name}: expected shape {shape} {by_config}, got no such tensor")
    for name, (dtype, shape) in found.items():
        wanted = expected.get(name) or optional.get(name)
        if wanted is None and not name.endswith(REDUNDANT_TENSOR_END):
            raise ConfigError(f"{path}: {name}: expected no such tensor {by_config}, got shape {shape}")
        if wanted is not None and shape != wanted:
            raise ConfigError(f"{path}: {name}: expected shape {wanted} {by_config}, got {shape}")
        if dtype not in READABLE_DTYPES:
            raise ConfigError(f"{path}: {name}: expected {' or '.join(READABLE_DTYPES)}, got {dtype}; convert the checkpoint")


def _layer(tensors: Mapping[str, F32], prefix: str) -> LayerWeights:
    def joined(*names: str) -> F32:
        return np.ascontiguousarray(np.concatenate([tensors[f"{prefix}{name}.weight"] for name in names]).T)

    return LayerWeights(
        attention_norm=tensors[f"{prefix}input_layernorm.weight"],
        qkv=joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_out=joined("self_attn.o_proj"),
        mlp_norm=tensors[f"{prefix}post_attention_layernorm.weight"],
        gate_up=joined("mlp.gate_proj", "mlp.up_proj"),
        mlp_down=joined("mlp.down_proj"),
    )


def _is_default_rope(value: Any) -> bool:
    return isinstance(value, dict) and value.get("rope_type", value.get("type")) == "default"


def _rope_parameters(raw: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Newer exports put rope_theta under rope_parameters."""
    nested = raw.get("rope_parameters")
    if nested is None:
        return raw
    if not _is_default_rope(nested):
        raise ConfigError(f"{path}: rope_parameters: expected rope_type 'default', got {nested!r}; this engine runs plain RoPE only")
    return {"rope_theta": raw.get("rope_theta", nested.get("rope_theta"))}


def _words(allowed: tuple[Any, ...]) -> str:
    return " or ".join("absent" if value is None else json.dumps(value) for value in allowed)


def _count(raw: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = raw.get(key)
    value = default if value is None and default is not None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{path}: {key}: expected an integer >= 1, got {value!r}")
    return value


def _positive(raw: Mapping[str, Any], key: str, path: Path) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{path}: {key}: expected a number > 0, got {value!r}")
    return float(value)


def _flag(raw: Mapping[str, Any], key: str, path: Path) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: {key}: expected true or false, got {value!r}")
    return value
