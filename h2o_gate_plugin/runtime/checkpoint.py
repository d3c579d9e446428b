"""Load a Hugging Face folder: config.json and the safetensors weights, each checked against the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.kernels import Matrix
from h2o_gate_plugin.runtime.model_config import ModelConfig, read_model_config
from h2o_gate_plugin.runtime.ops import F32, rope_tables
from h2o_gate_plugin.runtime.rope import rope_frequencies
from h2o_gate_plugin.runtime.weights import WORDS, StoredTensor, StoredWeights, find_weights, read_matrix, read_vector, same_values

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
REDUNDANT_TENSOR_END = "rotary_emb.inv_freq"
"""Old exports carry RoPE's frequencies as a tensor; they follow from the config."""


@dataclass(frozen=True)
class LayerWeights:
    """Matrices [out, in] in the words they are stored in; norms and biases float32, None where the family has none."""

    attention_norm: F32  # [hidden]
    qkv: Matrix  # [(n_head + 2 n_kv_head) * head_dim, hidden]
    qkv_bias: F32 | None  # [(n_head + 2 n_kv_head) * head_dim]
    query_norm: F32 | None  # [head_dim]
    key_norm: F32 | None  # [head_dim]
    attention_out: Matrix  # [hidden, n_head * head_dim]
    attention_out_bias: F32 | None  # [hidden]
    mlp_norm: F32  # [hidden]
    gate_up: Matrix  # [2 * intermediate, hidden]
    mlp_down: Matrix  # [hidden, intermediate]


@dataclass(frozen=True)
class Model:
    config: ModelConfig
    embedding: Matrix  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: F32  # [hidden]
    head: Matrix  # [vocab, hidden]; the embedding itself where they are tied
    cos: F32  # [context, head_dim / 2]
    sin: F32
    weights_bytes: int  # size of the weights files


def load_model(folder: Path) -> Model:
    """Read and check the folder; no tensor is held twice. Raises ConfigError naming the file and what does not fit."""
    config = read_model_config(folder)
    stored = find_weights(folder)
    _check_tensors(stored, config)
    tensors = stored.tensors
    if config.tied and HEAD in tensors and not same_values(tensors[HEAD], tensors[EMBEDDING]):
        raise ConfigError(f"{tensors[HEAD].path}: {HEAD}: expected the embedding (tie_word_embeddings is true), got other values")
    embedding = read_matrix([tensors[EMBEDDING]])
    cos, sin = rope_tables(config.context_tokens, rope_frequencies(config.rope, config.head_dim))
    return Model(
        config=config,
        embedding=embedding,
        layers=tuple(_layer(tensors, f"model.layers.{index}.", config) for index in range(config.n_layer)),
        norm=read_vector([tensors[NORM]]),
        head=embedding if config.tied else read_matrix([tensors[HEAD]]),
        cos=cos,
        sin=sin,
        weights_bytes=stored.file_bytes,
    )


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint of this shape must hold, in Hugging Face's names and [out, in] layout."""
    hidden, inner = config.hidden_size, config.intermediate_size
    n_query, n_kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden), NORM: (hidden,)}
    if not config.tied:
        shapes[HEAD] = (config.vocab_size, hidden)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (n_query, hidden),
        "self_attn.k_proj.weight": (n_kv, hidden),
        "self_attn.v_proj.weight": (n_kv, hidden),
        "self_attn.o_proj.weight": (hidden, n_query),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.qkv_bias:
        layer |= {"self_attn.q_proj.bias": (n_query,), "self_attn.k_proj.bias": (n_kv,), "self_attn.v_proj.bias": (n_kv,)}
    if config.attention_out_bias:
        layer["self_attn.o_proj.bias"] = (hidden,)
    if config.qk_norm:
        layer |= {"self_attn.q_norm.weight": (config.head_dim,), "self_attn.k_norm.weight": (config.head_dim,)}
    return shapes | {f"model.layers.{index}.{name}": shape for index in range(config.n_layer) for name, shape in layer.items()}


def _check_tensors(stored: StoredWeights, config: ModelConfig) -> None:
    expected = expected_shapes(config)
    optional = {HEAD: (config.vocab_size, config.hidden_size)} if config.tied else {}
    by_config = f"by {config.folder / 'config.json'} ({config.family}, {config.n_layer} layers)"
    for name, shape in expected.items():
        if name not in stored.tensors:
            raise ConfigError(f"{stored.listing}: {name}: expected shape {shape} {by_config}, got no such tensor")
    for name, tensor in stored.tensors.items():
        if name.endswith(REDUNDANT_TENSOR_END):
            continue
        wanted = expected.get(name) or optional.get(name)
        if wanted is None:
            raise ConfigError(f"{tensor.path}: {name}: expected no such tensor {by_config}, got shape {tensor.shape}")
        if tensor.shape != wanted:
            raise ConfigError(f"{tensor.path}: {name}: expected shape {wanted} {by_config}, got {tensor.shape}")
        if tensor.dtype not in WORDS:
            raise ConfigError(f"{tensor.path}: {name}: expected {' or '.join(WORDS)}, got {tensor.dtype}; convert the checkpoint")


def _layer(tensors: Mapping[str, StoredTensor], prefix: str, config: ModelConfig) -> LayerWeights:
    def stored(names: str, end: str) -> list[StoredTensor]:
        return [tensors[f"{prefix}{name}.{end}"] for name in names.split()]

    qkv, out = "self_attn.q_proj self_attn.k_proj self_attn.v_proj", "self_attn.o_proj"
    return LayerWeights(
        attention_norm=read_vector(stored("input_layernorm", "weight")),
        qkv=read_matrix(stored(qkv, "weight")),
        qkv_bias=read_vector(stored(qkv, "bias")) if config.qkv_bias else None,
        query_norm=read_vector(stored("self_attn.q_norm", "weight")) if config.qk_norm else None,
        key_norm=read_vector(stored("self_attn.k_norm", "weight")) if config.qk_norm else None,
        attention_out=read_matrix(stored(out, "weight")),
        attention_out_bias=read_vector(stored(out, "bias")) if config.attention_out_bias else None,
        mlp_norm=read_vector(stored("post_attention_layernorm", "weight")),
        gate_up=read_matrix(stored("mlp.gate_proj mlp.up_proj", "weight")),
        mlp_down=read_matrix(stored("mlp.down_proj", "weight")),
    )
