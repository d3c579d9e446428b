"""Random runs for the oracle tests: tiny models on disk, policies with prompts, and a recording in front of the cache."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.runtime.checkpoint import load_model

from .oracle import F64, Dtype, Llama, Part, nearest, spacing

SLOW = settings(derandomize=True, database=None)
"""The profile of this folder's tests: the same examples in every run."""

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]

_CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 20, "intermediate_size": 28, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "num_key_value_heads": 1,
}  # fmt: skip
MODELS: tuple[dict[str, Any], ...] = (
    {"num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 4, "vocab_size": 17, "tie_word_embeddings": True},
    {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 29},
    {"num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 6, "vocab_size": 50,
     "tie_word_embeddings": True},
    {"num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 37},
    {"num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 10, "vocab_size": 23, "model_type": "qwen2"},
    {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 31, "model_type": "qwen3",
     "attention_bias": True},
)  # fmt: skip
KV_TOLERANCE = 2e-5
"""How far a float32 K or V may be from the float64 one, as a share of the largest in its row: some 100 roundings of 6e-8."""


class TinyModel:
    """The same folder of random weights, as the engine and as the oracle read it. Float32 in every second model, else fp16."""

    def __init__(self, folder: Path, index: int) -> None:
        config = _CONFIG | MODELS[index]
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        random = np.random.default_rng(index)
        stored = np.float32 if index % 2 else np.float16
        tensors = {
            f"{name}.weight": random.normal(0, 0.35, shape) if len(shape) == 2 else random.uniform(0.5, 1.5, shape)
            for name, shape in weight_shapes(config).items()
        }
        biased = {"qwen2": ("q_proj", "k_proj", "v_proj"), "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj")}.get(config["model_type"], ())
        for name in [name for name in tensors if name.split(".")[-2] in biased]:
            tensors[name.replace(".weight", ".bias")] = random.normal(0, 0.35, len(tensors[name]))
        save_file({name: values.astype(stored) for name, values in tensors.items()}, str(folder / "model.safetensors"))
        self.folder = folder
        self.model = load_model(folder)
        self.llama = Llama.read(folder)

    def __repr__(self) -> str:
        return f"<{self.folder}>"

    def kv_shape(self, dtype: Dtype) -> KvShape:
        config = self.llama.config
        return KvShape(config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"], dtype)


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """[out, in] of the matrices and [in] of the norms, by Hugging Face's names without ``.weight``."""
    hidden, inner, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    n_query, n_kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + "input_layernorm": (hidden,), prefix + "post_attention_layernorm": (hidden,)}
        shapes |= {prefix + "self_attn.q_proj": (n_query, hidden), prefix + "self_attn.o_proj": (hidden, n_query)}
        shapes |= {prefix + f"self_attn.{name}_proj": (n_kv, hidden) for name in ("k", "v")}
        shapes |= {prefix + f"mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")} | {prefix + "mlp.down_proj": (hidden, inner)}
        if config["model_type"] == "qwen3":
            shapes |= {prefix + f"self_attn.{name}_norm": (d,) for name in ("q", "k")}
    return shapes


@dataclass(frozen=True)
class Run:
    """One cache's life: turns of a prompt and decode tokens. ``keys``: the ``kv_`` keys that the oracle reads, and a few more.

    ``chunk_tokens``, ``step_tokens``: in what pieces the model hands a prompt on, and the cache attends.
    """

    model: int
    dtype: Dtype
    selection: str
    keys: Mapping[str, Any]
    turns: tuple[tuple[tuple[int, ...], int], ...]
    chunk_tokens: int
    step_tokens: int
    reads_words_each_token: bool
    finishes_each_turn: bool
    tiny_frames: bool

    def policy(self, **changes: Any) -> KvPolicy:
        return replace(KvPolicy.from_values(self.keys), **({"selection": self.selection} | changes))


@st.composite
def runs(draw: st.DrawFn, /, **fixed: Any) -> Run:
    """``fixed``: ``kv_`` keys that are not drawn, without the prefix."""
    index = draw(st.integers(0, len(MODELS) - 1))
    n_layer, vocab = MODELS[index]["num_hidden_layers"], MODELS[index]["vocab_size"]
    start = draw(st.integers(0, n_layer - 1))
    few, many = st.integers(1, 7), st.integers(8, 20)
    keys = draw(
        st.fixed_dictionaries(
            {
                "h2o_enable": st.sampled_from([True] * 9 + [False]),
                "h2o_layer_start": st.just(start),
                "h2o_layer_end": st.sampled_from([-1, -1, *range(start, n_layer)]),
                "h2o_block_tokens": st.integers(1, 9),
                "h2o_sink_tokens": st.integers(0, 7),
                "h2o_recent_tokens": st.sampled_from([*range(1, 11), 150]),
                "h2o_target_mode": st.sampled_from(["adaptive", "static"]),
                "h2o_target_keep_ratio": st.sampled_from([0.3, 0.5, 0.61, 0.85, 0.001, 1.0]),
                "h2o_target_lossy_ratio": st.sampled_from([3.2, 2.0, 1.7, 1.3, 50.0, 1.0]),
                "h2o_ema_alpha": st.sampled_from([0.9, 0.3, 0.0, 1.0]),
                "h2o_update_interval": st.integers(1, 20),
                "h2o_trigger_min_tokens": st.one_of(st.just(1), st.integers(1, 60)),
                "h2o_score": st.sampled_from(["mean", "mean_square"]),
                "h2o_score_near_tokens": st.sampled_from([0, 0, 1, 6, 11, 20, 500]),
                "lossless_enable": st.sampled_from([True] * 9 + [False]),
                "lossless_runtime_enable": st.just(True),
                "lossless_codec": st.just("gear_delta"),
                "lossless_runtime_mode": st.sampled_from(["full", "store", "probe"]),
                "lossless_scope": st.sampled_from(["front_n_and_h2o_kept", "front_n+h2o_kept", "h2o_kept", "front_n"]),
                "lossless_front_n": st.integers(0, n_layer),
                "lossless_block_tokens": st.one_of(many, few),
                "lossless_hot_recent_tokens": st.integers(0, 10),
                "lossless_hot_sink_tokens": st.integers(0, 7),
                "lossless_kept_sample_layers": st.integers(0, 2),
                "lossless_kept_sample_token_interval": st.integers(0, 3),
                "lossless_front_sample_token_interval": st.integers(0, 3),
                "lossless_store_disable_front": st.booleans(),
                "lossless_store_bootstrap_tokens": st.one_of(many, few),
                "lossless_store_grouped_step_tokens": st.one_of(many, few),
                "lossless_async_threads": st.integers(0, 3),
                "lossless_max_queue": st.sampled_from([1, 2, 64]),
                "lossless_decode_cache_blocks": st.sampled_from([0, 1, 64]),
                "lossless_strict_roundtrip_check": st.booleans(),
            }
        )
    )
    ids = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(vocab, size=120).tolist()
    lengths, n_decodes = st.sampled_from([1, 2, *range(3, 60, 4)]), st.sampled_from([0, 1, *range(2, 30, 3)])
    first, second = draw(lengths), draw(lengths)
    turns = [(tuple(ids[:first]), draw(n_decodes))]
    if draw(st.booleans()):
        turns.append((tuple(ids[first : first + second]), draw(n_decodes)))
    return Run(
        model=index,
        dtype=draw(st.sampled_from(["fp16", "fp16", "bf16"])),
        selection=draw(st.sampled_from(["heavy", "heavy", "heavy", "window"])),
        keys={f"kv_{key}": value for key, value in (keys | fixed).items()},
        turns=tuple(turns),
        chunk_tokens=draw(st.sampled_from([256, 20, 7, 1])),
        step_tokens=draw(st.sampled_from([128, 5, 1])),
        reads_words_each_token=draw(st.booleans()),
        finishes_each_turn=draw(st.booleans()),
        tiny_frames=draw(st.sampled_from([True, True, False])),
    )


class ShelfCodec:
    """Puts the tensor on a shelf and encodes its number: a frame is 8 bytes and a header, whatever the words are."""

    name = "test_shelf"
    codec_id = 202

    def __init__(self) -> None:
        self._shelf: list[tuple[Part, U16]] = []
        self._lock = Lock()

    def encode(self, tensor: U16, part: Part) -> bytes:
        with self._lock:
            self._shelf.append((part, tensor.copy()))
            number = len(self._shelf) - 1
        return number.to_bytes(4, "little") + zlib.crc32(tensor.tobytes()).to_bytes(4, "little")

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        return self._shelf[int.from_bytes(payload[:4], "little")][1].copy()

    def key_rows(self) -> set[bytes]:
        """The K of every token that was ever encoded."""
        return {row.tobytes() for part, tensor in self._shelf if part == "k" for row in tensor}


class RecordingCache:
    """Passes everything on, and remembers every K and V that came by, as words."""

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        self.n_words = self.n_differently_rounded = 0
        self._given: dict[tuple[int, Part], list[U16]] = {(layer, part): [] for layer in range(cache.shape.n_layer) for part in ("k", "v")}

    @property
    def n_seen(self) -> int:
        return self.cache.n_seen

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        for part, given in (("k", keys), ("v", values)):
            self._given[layer, part].extend(to_words(given, self.cache.shape.dtype))  # type: ignore[index]
        return self.cache.attend(layer, queries, keys, values, decode)

    def end_token(self) -> None:
        self.cache.end_token()

    def words(self, layer: int, part: Part) -> U16:
        """What was given for the positions that the cache says it keeps."""
        given = self._given[layer, part]
        return np.array([given[position] for position in self.cache.positions(layer)])

    def positions_of(self, layer: int, key_rows: set[bytes]) -> set[int]:
        """The tokens of a layer whose K is among ``key_rows``; after RoPE no two tokens have the same."""
        return {position for position, words in enumerate(self._given[layer, "k"]) if words.tobytes() in key_rows}

    def rounded_as_given(self, layer: int, part: Part, position: int, unrounded: F64) -> F64:
        """An oracle's `Rounding`. float32 and float64 may round a value that lies at a tie to two sides, and the model would go two
        ways from there. So the recorded word is taken where a value within the tolerance of ``unrounded`` rounds to it."""
        dtype = self.cache.shape.dtype
        own = nearest(unrounded, dtype)
        recorded = to_numbers(self._given[layer, part][position], dtype)
        legal = np.abs(recorded - unrounded) <= spacing(unrounded, dtype) / 2 + KV_TOLERANCE * np.abs(unrounded).max()
        self.n_words += unrounded.size
        self.n_differently_rounded += int(np.count_nonzero(legal & (recorded != own)))
        return np.where(legal, recorded, own)


def to_words(values: F32, dtype: Dtype) -> U16:
    """float32 rounded to nearest even, as bits."""
    if dtype == "fp16":
        return values.astype(np.float16).view(np.uint16)
    return (nearest(values.astype(np.float64), dtype).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def to_numbers(words: U16, dtype: Dtype) -> F64:
    if dtype == "fp16":
        return words.view(np.float16).astype(np.float64)
    return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
