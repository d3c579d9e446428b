"""The KV dump that the contract's environment variables ask for: K and V as the model produced them, before any eviction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.dump import DumpWriter, StageFilter
from h2o_gate_plugin.kv.words import F32, U16, rounded
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import teacher_forced_logits
from h2o_gate_plugin.runtime.model import prefill

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

    def writer(self, dtype: KvDtype, suffix: str = "") -> DumpWriter:
        return DumpWriter(self.folder, self.run_id + suffix, self.stage, self.max_tokens, dtype)


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
    """Passes everything on to a cache and keeps the words of every K and V that it takes in, rounded as the cache rounds them."""

    def __init__(self, cache: AttentionCache, n_layer: int, dtype: KvDtype) -> None:
        self._cache, self._dtype = cache, dtype
        self._taken: list[list[tuple[U16, U16]]] = [[] for _ in range(n_layer)]

    @property
    def n_seen(self) -> int:
        return self._cache.n_seen

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        place = f"kv dump layer {layer}"
        self._taken[layer].append((rounded(keys, self._dtype, f"{place}: keys"), rounded(values, self._dtype, f"{place}: values")))
        return self._cache.attend(layer, queries, keys, values, decode)

    def end_token(self) -> None:
        self._cache.end_token()

    def recorded(self, layer: int) -> tuple[U16, U16]:
        """Every K and V so far, each [n_seen, n_kv_head, head_dim]."""
        keys, values = zip(*self._taken[layer], strict=True)
        return np.concatenate(keys), np.concatenate(values)


def write_kv_dump(writer: DumpWriter, model: Model, cache: AttentionCache, prompt: tuple[int, ...], continuation: tuple[int, ...]) -> None:
    """Per layer one prefill entry [0, P) and one decode entry [P, P + n), from teacher forcing on the given continuation."""
    recording = RecordingCache(cache, model.config.n_layer, model.config.kv_dtype)
    prefill(model, prompt, recording)
    teacher_forced_logits(model, continuation, recording)
    for layer in range(model.config.n_layer):
        keys, values = recording.recorded(layer)
        n_prompt = len(prompt)
        writer.write(layer, keys[:n_prompt], values[:n_prompt], 0, "prefill")
        if continuation:
            writer.write(layer, keys[n_prompt:], values[n_prompt:], n_prompt, "decode")
