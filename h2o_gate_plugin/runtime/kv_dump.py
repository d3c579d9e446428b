"""The KV dump that the contract's environment variables ask for: K and V as the model produced them, before any eviction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.dump import DumpWriter, StageFilter
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import teacher_forced_logits
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.ops import F32

DIR_VARIABLE = "MNN_KV_DUMP_DIR"
RUN_ID_VARIABLE = "MNN_KV_DUMP_RUN_ID"
STAGE_VARIABLE = "MNN_KV_DUMP_STAGE"
MAX_TOKENS_VARIABLE = "MNN_KV_DUMP_MAX_TOKENS"
DEFAULT_RUN_ID = "run"


@dataclass(frozen=True)
class DumpRequest:
    """``max_tokens`` None = no limit."""

    folder: Path
    run_id: str
    stage: StageFilter
    max_tokens: int | None

    def writer(self, suffix: str = "") -> DumpWriter:
        return DumpWriter(self.folder, self.run_id + suffix, self.stage, self.max_tokens)


def dump_request(environment: Mapping[str, str] = os.environ) -> DumpRequest | None:
    """None when MNN_KV_DUMP_DIR is unset. Raises ConfigError for an unknown stage or a limit that is no integer >= 1."""
    folder = environment.get(DIR_VARIABLE, "")
    if not folder:
        return None
    stage = environment.get(STAGE_VARIABLE, "both")
    if stage not in get_args(StageFilter):
        raise ConfigError(f"environment: {STAGE_VARIABLE}: expected prefill, decode or both, got {stage!r}")
    limit = environment.get(MAX_TOKENS_VARIABLE)
    if limit is not None and not (limit.isascii() and limit.isdigit() and int(limit) >= 1):
        raise ConfigError(f"environment: {MAX_TOKENS_VARIABLE}: expected an integer >= 1 (tokens), got {limit!r}; unset it for no limit")
    return DumpRequest(
        Path(folder), environment.get(RUN_ID_VARIABLE) or DEFAULT_RUN_ID, cast(StageFilter, stage), None if limit is None else int(limit)
    )


class RecordingCache:
    """Passes everything on to a cache and keeps a copy of each append, rounded to fp16 as the cache rounds it."""

    def __init__(self, cache: AttentionCache, n_layer: int) -> None:
        self._cache = cache
        self._appended: list[list[tuple[F32, F32]]] = [[] for _ in range(n_layer)]

    @property
    def n_seen(self) -> int:
        return self._cache.n_seen

    def append(self, layer: int, keys: F32, values: F32) -> None:
        self._cache.append(layer, keys, values)
        self._appended[layer].append((keys.copy(), values.copy()))

    def keys(self, layer: int) -> F32:
        return self._cache.keys(layer)

    def values(self, layer: int) -> F32:
        return self._cache.values(layer)

    def observe(self, layer: int, probs: F32, decode: bool) -> None:
        self._cache.observe(layer, probs, decode)

    def end_token(self) -> None:
        self._cache.end_token()

    def recorded(self, layer: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """fp16 words of every K and V appended so far, each [n_seen, n_kv_head, head_dim]."""
        keys, values = zip(*self._appended[layer], strict=True)
        return _fp16_words(keys), _fp16_words(values)


def write_kv_dump(writer: DumpWriter, model: Model, cache: AttentionCache, prompt: tuple[int, ...], continuation: tuple[int, ...]) -> None:
    """Per layer one prefill entry [0, P) and one decode entry [P, P + n), from teacher forcing on the given continuation."""
    recording = RecordingCache(cache, model.config.n_layer)
    prefill(model, prompt, recording)
    teacher_forced_logits(model, continuation, recording)
    for layer in range(model.config.n_layer):
        keys, values = recording.recorded(layer)
        n_prompt = len(prompt)
        writer.write(layer, keys[:n_prompt], values[:n_prompt], 0, "prefill")
        if continuation:
            writer.write(layer, keys[n_prompt:], values[n_prompt:], n_prompt, "decode")


def _fp16_words(parts: tuple[F32, ...]) -> NDArray[np.uint16]:
    return np.concatenate(parts).astype(np.float16).view(np.uint16)
