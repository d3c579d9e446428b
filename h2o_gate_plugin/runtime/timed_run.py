"""One run of one instance on a fresh KV cache: prefill and decode timed apart, and what the cache says of itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import generate, greedy_token
from h2o_gate_plugin.runtime.model import prefill


@dataclass(frozen=True)
class TimedRun:
    """``log`` holds the cache's lines when kv_h2o_log_stats is on; ``fingerprint`` names tokens, kept positions and KV bytes."""

    prefill_s: float
    decode_s: float
    decode_tokens: int
    report: KvReport
    log: tuple[str, ...]
    fingerprint: str


def kv_shape(model: Model) -> KvShape:
    config = model.config
    return KvShape(n_layer=config.n_layer, n_kv_head=config.n_kv_head, head_dim=config.head_dim, dtype=config.kv_dtype)


def run_once(model: Model, policy: KvPolicy, prompt_ids: Sequence[int], n_gen: int) -> TimedRun:
    """Prefill, then decode ``n_gen`` tokens greedily.

    The decode time holds everything a user waits for between tokens: sampling, attention, planning, compaction, restore, the
    queue. What is still queued after the last token is finished outside it. Raises EngineError for non-finite logits.
    """
    log: list[str] = []
    with KvCache(kv_shape(model), policy, log=log.append) as cache:
        started = time.perf_counter()
        logits = prefill(model, prompt_ids, cache)
        greedy_token(logits)
        prefilled = time.perf_counter()
        tokens = generate(model, logits, n_gen, cache)
        decoded = time.perf_counter()
        report = cache.finish()
        fingerprint = kv_fingerprint(cache, model.config.n_layer, tokens)
    return TimedRun(prefilled - started, decoded - prefilled, len(tokens), report, tuple(log), fingerprint)


def kv_fingerprint(cache: KvCache, n_layer: int, tokens: Sequence[int]) -> str:
    """Hash of the tokens, and of every layer's kept positions and words of K and V."""
    digest = hashlib.sha256(np.asarray(tokens, dtype=np.int64).tobytes())
    for layer in range(n_layer):
        digest.update(cache.positions(layer).tobytes())
        digest.update(cache.words(layer, "k").tobytes())
        digest.update(cache.words(layer, "v").tobytes())
    return digest.hexdigest()


def check_repeats(runs: Sequence[TimedRun], name: str) -> None:
    """Raises EngineError unless all runs gave the same tokens, kept positions and KV bytes."""
    for number, run in enumerate(runs[1:], start=2):
        if run.fingerprint != runs[0].fingerprint:
            raise EngineError(
                f"{name}: repeat {number}: expected the same tokens, kept positions and KV bytes as repeat 1, got others; "
                "a repeat leaks state into the next one"
            )
