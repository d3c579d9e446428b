"""The engine's semantics a second time, slow and plain: an oracle for tests, written from the documents and sharing no code.

float64 lists, one token and one head at a time. Scores are not carried along but recomputed from the whole attention history at each
plan; K and V are looked up by absolute position. Sources: docs/engine.md, the llm_bench contract, Llama as in Hugging Face's
``modeling_llama``, H2O (Zhang et al. 2023, arXiv 2306.14048). ``keys`` below are ``kv_`` keys of a bench config.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

F64 = npt.NDArray[np.float64]
Dtype = Literal["fp16", "bf16"]
Part = Literal["k", "v"]
Rounding = Callable[[int, Part, int, F64], F64]
"""(layer, part, position, unrounded [n_kv_head, head_dim]) -> what the cache holds of it."""

LEAST_QUERIES = 16
"""A mean square is taken over no fewer queries than this."""

_PRECISION: dict[Dtype, tuple[int, int]] = {"fp16": (11, -24), "bf16": (8, -133)}
"""Significant bits, and the exponent of the smallest subnormal."""


def spacing(values: F64, dtype: Dtype) -> F64:
    """Distance of neighbouring numbers of ``dtype`` around each value; same shape."""
    bits, least = _PRECISION[dtype]
    distance: F64 = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - bits, least))
    return distance


def nearest(values: F64, dtype: Dtype) -> F64:
    """Each value rounded to ``dtype``, ties to even, and back; same shape."""
    steps = spacing(values, dtype)
    rounded: F64 = np.round(values / steps) * steps
    return rounded


@dataclass(frozen=True)
class Llama:
    """config.json and the tensors of model.safetensors by their Hugging Face names, [out, in]."""

    config: Mapping[str, Any]
    tensors: Mapping[str, F64]

    @staticmethod
    def read(folder: Path) -> Llama:
        tensors = load_file(folder / "model.safetensors")
        return Llama(json.loads((folder / "config.json").read_text()), {name: wide.astype(np.float64) for name, wide in tensors.items()})

    def project(self, layer: int, name: str, x: F64) -> F64:
        return self.tensors[f"model.layers.{layer}.{name}.weight"] @ x + self.tensors.get(f"model.layers.{layer}.{name}.bias", 0.0)

    def heads(self, layer: int, name: str, n_head: int, x: F64) -> F64:
        """[hidden] -> [n_head, d], each through its RMSNorm where the model has one."""
        rows = self.project(layer, f"self_attn.{name}_proj", x).reshape(n_head, -1)
        norm = f"model.layers.{layer}.self_attn.{name}_norm.weight"
        return np.array([self.normed(norm, row) for row in rows]) if norm in self.tensors else rows

    def normed(self, name: str, x: F64) -> F64:
        return x / math.sqrt(float(x @ x) / len(x) + self.config["rms_norm_eps"]) * self.tensors[name]

    def turned(self, x: F64, position: int) -> F64:
        """RoPE, rotate_half: [n_head, d]; angles in float32 as Hugging Face takes them."""
        head_dim = x.shape[1]
        half = head_dim // 2
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = np.float32(1) / np.float32(self.config["rope_theta"]) ** exponents
        angles = (np.float32(position) * frequencies).astype(np.float64)
        cos, sin = np.concatenate([np.cos(angles)] * 2), np.concatenate([np.sin(angles)] * 2)
        swapped = np.concatenate([-x[:, half:], x[:, :half]], axis=1)
        rotated: F64 = x * cos + swapped * sin
        return rotated

    def mlp(self, layer: int, x: F64) -> F64:
        gate = self.project(layer, "mlp.gate_proj", x)
        return self.project(layer, "mlp.down_proj", gate / (1 + np.exp(-gate)) * self.project(layer, "mlp.up_proj", x))

    def logits(self, x: F64) -> F64:
        head = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"
        return self.tensors[head] @ self.normed("model.norm.weight", x)


@dataclass(frozen=True)
class Attention:
    """One prompt, or one decode token: the probability (or its square) that each position received from ``n_query`` queries.

    Mean over heads, sum over queries; what comes from near queries is left out.
    """

    decode: bool
    seen_before: int
    n_query: int
    received: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """``margin``: by how much of its score the closest call was decided; inf where nothing was close, or both were exactly 0."""

    kept: tuple[int, ...]
    n_tokens: int
    seen: int
    wanted: int
    floor: int
    margin: float

    def figures(self, bytes_per_token: int) -> dict[str, float]:
        """The columns of one plan, by the names of the engine's report; ``kept`` are positions here."""
        runs = sum(position - 1 not in self.kept for position in self.kept)
        lossy_ratio = self.seen * bytes_per_token / (len(self.kept) * bytes_per_token + 8 * runs)
        return {
            "lossy_ratio": lossy_ratio,
            "keep_ratio": 1 / lossy_ratio,
            "target_keep": self.wanted / self.seen,
            "effective_keep": min(max(self.wanted, self.floor), self.n_tokens) / self.seen,
            "floor_keep": self.floor / self.seen,
            "quantized_keep": len(self.kept) / self.seen,
        }


@dataclass
class Layer:
    positions: list[int] = field(default_factory=list)
    keys: dict[int, F64] = field(default_factory=dict)
    values: dict[int, F64] = field(default_factory=dict)
    history: list[Attention] = field(default_factory=list)
    decoded_since_plan: int = 0
    last_plan: Plan | None = None


class Oracle:
    """A model with its KV cache. `prefill` and `decode` return the next token's logits [vocab]."""

    def __init__(
        self, llama: Llama, keys: Mapping[str, Any], dtype: Dtype = "fp16", selection: str = "heavy", rounding: Rounding | None = None
    ) -> None:
        self.llama, self.keys, self.selection = llama, keys, selection
        self.rounding: Rounding = rounding or (lambda _layer, _part, _position, unrounded: nearest(unrounded, dtype))
        self.n_layer = int(llama.config["num_hidden_layers"])
        self.layers = [Layer() for _ in range(self.n_layer)]
        self.n_seen = 0
        self.smallest_margin = math.inf
        last = self.n_layer - 1 if keys["kv_h2o_layer_end"] == -1 else keys["kv_h2o_layer_end"]
        self.h2o_layers = range(keys["kv_h2o_layer_start"], last + 1) if keys["kv_h2o_enable"] else range(0)

    def prefill(self, ids: Sequence[int]) -> F64:
        return self._run(ids, decode=False)

    def decode(self, token: int) -> F64:
        return self._run([token], decode=True)

    def _run(self, ids: Sequence[int], decode: bool) -> F64:
        hidden = [self.llama.tensors["model.embed_tokens.weight"][token] for token in ids]
        for index in range(self.n_layer):
            attention = Attention(decode, self.n_seen, len(ids))
            hidden = [self._block(index, x, self.n_seen + offset, attention) for offset, x in enumerate(hidden)]
            self.layers[index].history.append(attention)
        self.n_seen += len(ids)
        if decode:
            for index in self.h2o_layers:
                self._plan_when_due(self.layers[index])
        return self.llama.logits(hidden[-1])

    def _block(self, index: int, x: F64, position: int, attention: Attention) -> F64:
        llama, layer, prefix = self.llama, self.layers[index], f"model.layers.{index}"
        n_head, n_kv_head = llama.config["num_attention_heads"], llama.config["num_key_value_heads"]
        normed = llama.normed(f"{prefix}.input_layernorm.weight", x)
        queries = llama.turned(llama.heads(index, "q", n_head, normed), position)
        key = llama.turned(llama.heads(index, "k", n_kv_head, normed), position)
        value = llama.heads(index, "v", n_kv_head, normed)
        layer.positions.append(position)
        layer.keys[position] = self.rounding(index, "k", position, key)
        layer.values[position] = self.rounding(index, "v", position, value)
        keys = np.array([layer.keys[kept] for kept in layer.positions])  # [n, n_kv_head, d]
        values = np.array([layer.values[kept] for kept in layer.positions])
        mixed = []
        total = np.zeros(len(layer.positions))
        for head in range(n_head):
            of = head // (n_head // n_kv_head)
            scores = keys[:, of] @ queries[head] / math.sqrt(len(queries[head]))
            weights = np.exp(scores - scores.max())
            probs = weights / weights.sum()
            mixed.append(probs @ values[:, of])
            total += probs if self.keys["kv_h2o_score"] == "mean" else probs**2
        for kept, received in zip(layer.positions, (total / n_head).tolist(), strict=True):
            if position - kept >= self.keys["kv_h2o_score_near_tokens"]:
                attention.received[kept] = attention.received.get(kept, 0.0) + received
        x = x + llama.project(index, "self_attn.o_proj", np.concatenate(mixed))
        return x + llama.mlp(index, llama.normed(f"{prefix}.post_attention_layernorm.weight", x))

    def _plan_when_due(self, layer: Layer) -> None:
        layer.decoded_since_plan += 1
        if self.n_seen < self.keys["kv_h2o_trigger_min_tokens"]:
            return
        if layer.last_plan is not None and layer.decoded_since_plan < self.keys["kv_h2o_update_interval"]:
            return
        plan = keep(layer.positions, self._scores(layer), self.n_seen, self.keys)
        layer.positions = list(plan.kept)
        layer.last_plan, layer.decoded_since_plan = plan, 0
        self.smallest_margin = min(self.smallest_margin, plan.margin)

    def _scores(self, layer: Layer) -> list[float]:
        """Of each token kept. A prompt is worth its number of queries against all tokens before it; a decode token is mixed in.

        ``mean_square`` counts only the queries that come after the token and are not near it.
        """
        if self.selection == "window":
            return [float(position) for position in layer.positions]
        alpha = self.keys["kv_h2o_ema_alpha"]
        scores = []
        for position in layer.positions:
            score = 0.0
            for attention in layer.history:
                received = attention.received.get(position, 0.0)
                if attention.decode:
                    score = alpha * score + (1 - alpha) * received
                else:
                    before, after = attention.seen_before, attention.seen_before + attention.n_query
                    if self.keys["kv_h2o_score"] == "mean_square":
                        never = position + self.keys["kv_h2o_score_near_tokens"]
                        before, after = max(LEAST_QUERIES, before - never), max(LEAST_QUERIES, after - never)
                    score = (score * before + received) / after
            scores.append(score)
        return scores

    def words(self, index: int, part: Part) -> F64:
        """What layer ``index`` keeps, as numbers: [n_seq, n_kv_head, head_dim]."""
        layer = self.layers[index]
        held = layer.keys if part == "k" else layer.values
        return np.array([held[position] for position in layer.positions])

    def plan_figures(self, bytes_per_token: int) -> dict[str, float] | None:
        """Means over the layers that have planned, of their last plans."""
        plans = [layer.last_plan.figures(bytes_per_token) for layer in self.layers if layer.last_plan is not None]
        return {name: sum(plan[name] for plan in plans) / len(plans) for name in plans[0]} if plans else None

    def scope(self) -> dict[int, bool]:
        """The layers that are in the lossless scope now, and whether they are encoded or left out by sampling."""
        keys = self.keys
        if not (keys["kv_lossless_enable"] and keys["kv_lossless_runtime_enable"] and keys["kv_lossless_codec"] != "none"):
            return {}
        front_disabled = keys["kv_lossless_runtime_mode"] == "store" and keys["kv_lossless_store_disable_front"]
        n_sampled = keys["kv_lossless_kept_sample_layers"]
        layers: dict[int, bool] = {}
        for index, layer in enumerate(self.layers):
            if index in self.h2o_layers:
                if "h2o_kept" in keys["kv_lossless_scope"] and layer.last_plan is not None:
                    layers[index] = n_sampled == 0 or index - self.h2o_layers.start < n_sampled
            elif "front_n" in keys["kv_lossless_scope"] and index < keys["kv_lossless_front_n"] and not front_disabled:
                layers[index] = True
        return layers

    def cold(self, index: int) -> list[int]:
        """Positions of the tokens of a layer that are neither hot sink nor hot recent."""
        positions = self.layers[index].positions
        return positions[self.keys["kv_lossless_hot_sink_tokens"] : max(0, len(positions) - self.keys["kv_lossless_hot_recent_tokens"])]


def keep(positions: Sequence[int], scores: Sequence[float], seen: int, keys: Mapping[str, Any]) -> Plan:
    """One H2O plan over the tokens now in the cache; ``Plan.kept`` are positions, in order."""
    n, block_tokens = len(positions), keys["kv_h2o_block_tokens"]
    blocks = [list(range(start, min(start + block_tokens, n))) for start in range(0, n, block_tokens)]
    kept: set[int] = set()
    candidates: list[list[int]] = []
    for block in blocks:
        if any(i < keys["kv_h2o_sink_tokens"] or i >= n - keys["kv_h2o_recent_tokens"] for i in block):
            kept.update(block)
        else:
            candidates.append(block)
    floor = len(kept)
    if keys["kv_h2o_target_mode"] == "static":
        wanted = math.ceil(Fraction(repr(keys["kv_h2o_target_keep_ratio"])) * n)
    else:
        wanted = math.floor(seen / Fraction(repr(keys["kv_h2o_target_lossy_ratio"])))

    def block_score(block: list[int]) -> float:
        return sum(scores[i] for i in block)

    margin = math.inf
    candidates.sort(key=lambda block: (block_score(block), block[0]), reverse=True)
    for rank, block in enumerate(candidates):
        room = max(0, wanted - len(kept))
        if rank and room < block_tokens:  # this block, or a part of it, comes after a whole one: the order of the two matters
            margin = min(margin, _margin(block_score(candidates[rank - 1]), block_score(block)))
        if room == 0:
            break
        best = sorted(block, key=lambda i: (scores[i], i), reverse=True)
        kept.update(best[:room])
        if room < len(best):
            margin = min(margin, _margin(scores[best[room - 1]], scores[best[room]]))
    return Plan(tuple(positions[i] for i in sorted(kept)), n, seen, wanted, floor, margin)


def _margin(better: float, worse: float) -> float:
    return math.inf if better == worse == 0.0 else (better - worse) / better
