"""A tiny random checkpoint written to disk, and the plainest cache that keeps the model's door."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from h2o_gate_plugin.runtime.checkpoint import Model, expected_shapes, load_model
from h2o_gate_plugin.runtime.model import next_token_logits, prompt_states
from h2o_gate_plugin.runtime.model_config import read_model_config

F32 = NDArray[np.float32]

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 260,
}


class PlainCache:
    """Lists, one array per append, rounded to ``dtype``; remembers what it was shown."""

    def __init__(self, n_layer: int, dtype: type[np.floating[Any]] = np.float16) -> None:
        self.dtype = dtype
        self.stored_keys: list[list[NDArray[Any]]] = [[] for _ in range(n_layer)]
        self.stored_values: list[list[NDArray[Any]]] = [[] for _ in range(n_layer)]
        self.attended: list[tuple[int, int, bool]] = []
        self.n_ended = 0

    @property
    def n_seen(self) -> int:
        return sum(len(part) for part in self.stored_keys[-1])

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        self.stored_keys[layer].append(keys.astype(self.dtype))
        self.stored_values[layer].append(values.astype(self.dtype))
        self.attended.append((layer, len(queries), decode))
        n_new, n_head, head_dim = queries.shape
        all_keys, all_values = (np.repeat(rows, n_head // keys.shape[1], axis=1) for rows in (self.keys(layer), self.values(layer)))
        scores = np.einsum("qhd,nhd->hqn", queries, all_keys) / np.sqrt(np.float32(head_dim))
        scores += np.triu(np.full((n_new, len(all_keys)), -np.inf, dtype=np.float32), k=len(all_keys) - n_new + 1)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        probs = weights / weights.sum(axis=2, keepdims=True)
        mixed: F32 = np.einsum("hqn,nhd->qhd", probs, all_values).reshape(n_new, -1).astype(np.float32)
        return mixed

    def keys(self, layer: int) -> F32:
        """float32 [n_seen, n_kv_head, head_dim]"""
        return np.concatenate(self.stored_keys[layer]).astype(np.float32)

    def values(self, layer: int) -> F32:
        """As `keys`."""
        return np.concatenate(self.stored_values[layer]).astype(np.float32)

    def end_token(self) -> None:
        self.n_ended += 1

    def __enter__(self) -> PlainCache:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def write_tokenizer(folder: Path) -> None:
    """One token per byte, digits apart."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_checkpoint(folder: Path, seed: int = 0, scale: float = 0.4, **changes: Any) -> Path:
    """A complete model folder with random fp16 weights; ``changes`` go into config.json, None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in (TINY | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(seed)
    tensors = {
        name: (rng.standard_normal(shape) * scale + (1.0 if len(shape) == 1 else 0.0)).astype(np.float16)
        for name, shape in expected_shapes(read_model_config(folder)).items()
    }
    save_file(tensors, str(folder / "model.safetensors"))
    write_tokenizer(folder)
    return folder


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    return lambda **changes: write_checkpoint(tmp_path / "tiny", **changes)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return load_model(tiny_folder)


@pytest.fixture
def make_cache(tiny: Model) -> Callable[[], PlainCache]:
    return lambda: PlainCache(tiny.config.n_layer)


@pytest.fixture
def unrounded_cache() -> Callable[[int], PlainCache]:
    """A float32 cache for a number of layers: what an implementation without fp16 KV attends over."""
    return lambda n_layer: PlainCache(n_layer, np.float32)


@pytest.fixture(scope="session")
def logits_of_prompt() -> Callable[[Model, Sequence[int], Any], F32]:
    """The logits after every token of a prompt that goes in as one chunk: [n, vocab]."""
    return lambda model, ids, cache: np.stack([next_token_logits(model, hidden) for hidden in prompt_states(model, ids, cache)])


@pytest.fixture
def bench_config(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """Write a bench config for the tiny model with the given keys."""

    def write(**keys: Any) -> Path:
        path = tmp_path / "bench_config.json"
        path.write_text(json.dumps({"base_dir": str(tiny_folder) + "/"} | keys), encoding="utf-8")
        return path

    return write
