"""What the offline evaluator measures: every parameter of the llm_bench contract's ``offline`` option list, with its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.kv.dump import StageFilter
from h2o_gate_plugin.kv_options import K_PREDICTORS, V_PREDICTORS

Scope = Literal["front_n", "layer_range", "layer_ids"]
EntryMode = Literal["per_meta", "aggregate", "chunked", "chunked_grouped"]
CodecMode = Literal["legacy", "adaptive_v22", "kv_fast", "kv_max"]
"""The contract's two, and codecs of our own by their names."""

CHUNKED_MODES = ("chunked", "chunked_grouped")
GROUPED_MODES = ("aggregate", "chunked_grouped")

Layout = Literal["seq_head_dim", "head_seq_dim"]
WordDtype = Literal["fp16", "bf16"]


@dataclass(frozen=True)
class EvaluatorSettings:
    """Lengths in tokens, ``layer_end`` inclusive (-1 = last), ``max_seq_len`` None = no limit, ``online_framing_bytes`` per tensor chunk.
    ``layout`` and ``dtype``: how the tensors of a plain folder lie and what its 16-bit words are; None for a dump, which says it itself.

    Raises ConfigError, naming the option, for a value outside its range.
    """

    stage: StageFilter = "both"
    scope: Scope = "front_n"
    front_n: int = 2
    layer_start: int = 0
    layer_end: int = -1
    layer_ids: tuple[int, ...] = ()
    zstd_level: int = 3
    strict_fp16: bool = False
    min_seq_len: int = 1
    max_seq_len: int | None = None
    entry_mode: EntryMode = "per_meta"
    online_chunk_seq: int = 0
    online_framing_bytes: int = 16
    aggregate_by_stage: bool = False
    codec_mode: CodecMode = "adaptive_v22"
    adaptive_block_seq: int = 64
    bitshuffle: bool = False
    k_hi_predictors: tuple[str, ...] = K_PREDICTORS
    k_lo_predictors: tuple[str, ...] = K_PREDICTORS
    v_hi_predictors: tuple[str, ...] = V_PREDICTORS
    v_lo_predictors: tuple[str, ...] = V_PREDICTORS
    layout: Layout | None = None
    dtype: WordDtype | None = None

    def __post_init__(self) -> None:
        words = {"stage": StageFilter, "scope": Scope, "entry_mode": EntryMode, "codec_mode": CodecMode}
        for name, legal in (("layout", Layout), ("dtype", WordDtype)):
            if getattr(self, name) is not None:
                words[name] = legal
        for name, legal in words.items():
            _check_word(name, getattr(self, name), get_args(legal))
        for name, (low, high) in _RANGES.items():
            _check_integer(name, getattr(self, name), low, high)
        for name in ("k_hi_predictors", "k_lo_predictors", "v_hi_predictors", "v_lo_predictors"):
            _check_predictors(name, getattr(self, name), K_PREDICTORS if name.startswith("k") else V_PREDICTORS)
        if self.max_seq_len is not None:
            _check_integer("max_seq_len", self.max_seq_len, self.min_seq_len, None)
        if self.layer_end != -1 and self.layer_end < self.layer_start:
            raise _wrong("layer_end", f"-1 (last) or an integer >= --layer-start {self.layer_start}", self.layer_end)
        for layer in self.layer_ids:
            _check_integer("layer_ids", layer, 0, None)
        if self.scope == "layer_ids" and not self.layer_ids:
            raise _wrong("layer_ids", "at least one layer for --scope layer_ids", self.layer_ids)
        if self.entry_mode in CHUNKED_MODES and self.online_chunk_seq < 1:
            raise _wrong("online_chunk_seq", f"an integer >= 1 (tokens) for --entry-mode {self.entry_mode}", self.online_chunk_seq)

    def selects_layer(self, layer: int) -> bool:
        if self.scope == "front_n":
            return layer < self.front_n
        if self.scope == "layer_ids":
            return layer in self.layer_ids
        return self.layer_start <= layer and (self.layer_end == -1 or layer <= self.layer_end)

    def selects_length(self, seq_len: int) -> bool:
        return seq_len >= self.min_seq_len and (self.max_seq_len is None or seq_len <= self.max_seq_len)


_RANGES: dict[str, tuple[int, int | None]] = {
    "front_n": (1, None),
    "layer_start": (0, None),
    "layer_end": (-1, None),
    "zstd_level": (1, 22),
    "min_seq_len": (1, None),
    "online_chunk_seq": (0, None),
    "online_framing_bytes": (0, None),
    "adaptive_block_seq": (1, 0xFFFF),
}


def _wrong(name: str, expected: str, got: Any) -> ConfigError:
    return ConfigError(f"offline: --{name.replace('_', '-')}: expected {expected}, got {got!r}; correct the option")


def _check_word(name: str, value: Any, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise _wrong(name, f"one of {', '.join(legal)}", value)


def _check_integer(name: str, value: Any, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise _wrong(name, f"an integer >= {low}" + ("" if high is None else f" and <= {high}"), value)


def _check_predictors(name: str, value: tuple[str, ...], legal: tuple[str, ...]) -> None:
    for word in value:
        if word not in legal:
            raise _wrong(name, f"items of {', '.join(legal)} ({nearest(word, legal)})", word)
    if not value or len(set(value)) != len(value):
        raise _wrong(name, f"one or more different items of {', '.join(legal)}", value)


UPPER_BOUND = EvaluatorSettings(entry_mode="aggregate", aggregate_by_stage=True)
"""The best that joining everything gives: contract, "Upper bound"."""

ONLINE_SIM = EvaluatorSettings(entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)
"""What a runtime that encodes 192 tokens at a time reaches: contract, "online_sim"."""
