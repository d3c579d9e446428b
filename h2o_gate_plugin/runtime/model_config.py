"""config.json of a Hugging Face folder: the shape of a Llama, Mistral, Qwen2 or Qwen3 model; what cannot be run is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.runtime.json_object import read_json_object
from h2o_gate_plugin.runtime.json_values import count, flag, positive
from h2o_gate_plugin.runtime.rope import Rope, read_rope


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model; ``context_tokens`` is max_position_embeddings."""

    folder: Path
    family: str
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    context_tokens: int
    rms_norm_eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool
    attention_out_bias: bool
    qk_norm: bool
    """RMSNorm over each head of the queries and keys, before RoPE."""
    kv_dtype: KvDtype
    """What K and V are rounded to: bf16 for a model kept in bfloat16, else fp16."""


@dataclass(frozen=True)
class _Family:
    """What a model_type settles by itself, as transformers' configuration and modeling files of that name do."""

    derived: tuple[str, ...] = ()  # keys that follow from others where they are absent
    always_qkv_bias: bool = False
    reads_attention_bias: bool = False  # on q, k, v and o
    qk_norm: bool = False
    window_needs_flag: bool = False  # sliding_window counts with use_sliding_window only
    default_window_tokens: int | None = None  # of an absent sliding_window


_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(derived=("num_key_value_heads", "head_dim"), reads_attention_bias=True),
    "mistral": _Family(derived=("head_dim",), default_window_tokens=4096),
    "qwen2": _Family(derived=("head_dim",), always_qkv_bias=True, window_needs_flag=True),
    "qwen3": _Family(reads_attention_bias=True, qk_norm=True, window_needs_flag=True),
}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "is_causal": (True, None),
    "quantization_config": (None,),
}
MOST_LAYERS = 4096
LARGEST_ROPE_TABLE = 2**28
"""Values: 1 GiB, two million tokens of head_dim 128."""
_KV_DTYPES: Mapping[str, KvDtype] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp16"}


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json; a missing number is an error, never a default. Raises ConfigError naming the key and what is supported."""
    path = folder / "config.json"
    raw, place = read_json_object(path), f"{path}: "
    model_type = raw.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None or not isinstance(model_type, str):
        raise ConfigError(f"{place}model_type: expected {', '.join(_FAMILIES)}, got {model_type!r}; this engine runs no other")
    for key, allowed in _ONLY.items():
        value = raw.get(key)
        if not any(type(value) is type(legal) and value == legal for legal in allowed):
            raise ConfigError(f"{place}{key}: expected {_words(allowed)}, got {value!r}; this engine cannot run it")
    n_head = count(raw, "num_attention_heads", place)
    hidden_size = count(raw, "hidden_size", place)
    biased = family.reads_attention_bias and flag(raw, "attention_bias", place)
    config = ModelConfig(
        folder=folder,
        family=model_type,
        n_layer=count(raw, "num_hidden_layers", place),
        n_head=n_head,
        n_kv_head=count(raw, "num_key_value_heads", place, n_head if "num_key_value_heads" in family.derived else None),
        head_dim=count(raw, "head_dim", place, _derived_head_dim(family, hidden_size, n_head)),
        hidden_size=hidden_size,
        intermediate_size=count(raw, "intermediate_size", place),
        vocab_size=count(raw, "vocab_size", place),
        context_tokens=count(raw, "max_position_embeddings", place),
        rms_norm_eps=positive(raw, "rms_norm_eps", place),
        rope=read_rope(raw, path),
        tied=flag(raw, "tie_word_embeddings", place),
        qkv_bias=family.always_qkv_bias or biased,
        attention_out_bias=biased,
        qk_norm=family.qk_norm,
        kv_dtype=_kv_dtype(raw, place),
    )
    if config.n_head % config.n_kv_head:
        raise ConfigError(f"{place}num_key_value_heads: expected a divisor of {config.n_head} heads, got {config.n_kv_head}")
    if config.head_dim % 2:
        raise ConfigError(f"{place}head_dim: expected an even number (RoPE turns pairs), got {config.head_dim}")
    if config.n_layer > MOST_LAYERS:  # each is looked for among the weights by its name
        raise ConfigError(f"{place}num_hidden_layers: expected at most {MOST_LAYERS}, got {config.n_layer}")
    if config.context_tokens * config.head_dim > LARGEST_ROPE_TABLE:
        raise ConfigError(
            f"{place}max_position_embeddings: expected at most {LARGEST_ROPE_TABLE // config.head_dim} tokens beside head_dim "
            f"{config.head_dim} (RoPE's tables have 4 bytes for each), got {config.context_tokens}"
        )
    _check_full_attention(raw, family, config, place)
    return config


def _derived_head_dim(family: _Family, hidden_size: int, n_head: int) -> int | None:
    return hidden_size // n_head if "head_dim" in family.derived and hidden_size % n_head == 0 else None


def _check_full_attention(raw: Mapping[str, Any], family: _Family, config: ModelConfig, place: str) -> None:
    kinds = raw.get("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list) and len(kinds) == config.n_layer and all(kind == "full_attention" for kind in kinds)
    ):
        got = f"{len(kinds)} of {', '.join(sorted({str(kind) for kind in kinds}))}" if isinstance(kinds, list) else repr(kinds)
        raise ConfigError(f"{place}layer_types: expected {config.n_layer} of full_attention, got {got}; this engine cannot run it")
    window = raw.get("sliding_window", family.default_window_tokens)
    if family.window_needs_flag or window is None:
        return
    if isinstance(window, bool) or not isinstance(window, int) or window < config.context_tokens:
        absent = "" if "sliding_window" in raw else f" (what an absent key means in {config.family})"
        raise ConfigError(f"{place}sliding_window: expected null or >= max_position_embeddings ({config.context_tokens} tokens), "
                          f"got {window!r}{absent}; this engine attends to every token")  # fmt: skip


def _kv_dtype(raw: Mapping[str, Any], place: str) -> KvDtype:
    """``dtype`` since transformers 4.56, ``torch_dtype`` before."""
    words = {key: raw[key] for key in ("dtype", "torch_dtype") if raw.get(key) is not None}
    for key, word in words.items():
        if not isinstance(word, str) or word not in _KV_DTYPES:
            raise ConfigError(f"{place}{key}: expected {', '.join(_KV_DTYPES)} or absent, got {word!r}")
    if len(set(words.values())) == 2:
        raise ConfigError(f"{place}torch_dtype: expected {words['dtype']!r} as in dtype, got {word!r}; remove the wrong one")
    return _KV_DTYPES[next(iter(words.values()), "float16")]


def _words(allowed: tuple[Any, ...]) -> str:
    return " or ".join("absent" if value is None else json.dumps(value) for value in allowed)
