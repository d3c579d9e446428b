"""The KV cache that a model runs on: exact fp16 KV, H2O eviction and the lossless store behind one door."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from types import TracebackType

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.codec import Codec, Part, codec_by_name
from h2o_gate_plugin.kv.eviction import check_probabilities, decayed_scores, plan_keep, run_count, seeded_scores
from h2o_gate_plugin.kv.half import F32, check_subnormals, half_words
from h2o_gate_plugin.kv.layer import LayerKv
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.log_lines import plan_line
from h2o_gate_plugin.kv.report import KvReport, PlanReport, mean_over_layers, plan_report
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.kv.store import LosslessStore

_SCRATCH_STEP_TOKENS = 64


class KvCache:
    """Per layer and token: `append`, `keys`, `values`, `observe`; per decode token `end_token`; per run `finish`.

    What `keys` and `values` return is the exact float32 image of every kept token's fp16 K or V, whatever is packed. Kept
    positions depend on the attention alone, never on the timing of worker threads.
    """

    def __init__(self, shape: KvShape, policy: KvPolicy, log: Callable[[str], None] | None = None, codec: Codec | None = None) -> None:
        """``log`` gets the statistics lines when the policy logs. ``codec`` None: the policy's. Raises ConfigError."""
        check_subnormals()
        self.shape = shape
        self.policy = policy.resolved(shape.n_layer)
        self._log = log if policy.log_stats else None
        self._ledger = ResidentLedger(shape.n_layer)
        self._layers = tuple(LayerKv(layer, shape, self._ledger) for layer in range(shape.n_layer))
        used = codec_by_name(policy.codec, policy.k_predictors, policy.v_predictors) if codec is None else codec
        self._store = LosslessStore(self.policy, self._layers, used, self._ledger, self._log)
        self._scratch: F32 = np.empty((0, shape.n_kv_head, shape.head_dim), dtype=np.float32)
        self._plans: list[PlanReport | None] = [None] * shape.n_layer
        self._decode_tokens_since_plan = [0] * shape.n_layer
        self._evict_us = 0.0

    def __enter__(self) -> KvCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def n_seen(self) -> int:
        """Tokens appended to every layer so far, evicted ones included: the next absolute position."""
        return self._layers[-1].seen_tokens

    def positions(self, layer: int) -> npt.NDArray[np.int64]:
        """Absolute positions of the kept tokens, a copy."""
        return self._layers[layer].positions.copy()

    def append(self, layer: int, keys: F32, values: F32) -> None:
        """Add tokens, float32 [n_new, n_kv_head, head_dim], K after RoPE; rounded to fp16 once. Raises EngineError."""
        expected = (len(keys), self.shape.n_kv_head, self.shape.head_dim)
        if keys.shape != expected or values.shape != expected:
            raise EngineError(
                f"kv layer {layer}: keys and values: expected {expected}, got {keys.shape} and {values.shape}; check the model"
            )
        self._layers[layer].append(half_words(keys, f"kv layer {layer}: keys"), half_words(values, f"kv layer {layer}: values"))

    def keys(self, layer: int) -> F32:
        """float32 [n_kv_head, n_seq, head_dim], valid until the next `keys` or `values`. Raises CodecError for a damaged block."""
        return self._image(layer, "k")

    def values(self, layer: int) -> F32:
        """As `keys`."""
        return self._image(layer, "v")

    def observe(self, layer: int, probs: F32, decode: bool) -> None:
        """Take attention, float32 [n_head, n_query, n_seq] after softmax; it seeds or updates scores and, when due, evicts.

        Call it after the layer's `values` have been used. Raises EngineError for anything but probabilities.
        """
        if not self.policy.in_range(layer):
            return
        kv, place = self._layers[layer], f"kv layer {layer}"
        check_probabilities(probs, self.shape.n_kv_head, kv.n_tokens, place)
        if not decode:
            kv.scores[:] = seeded_scores(kv.scores, probs, kv.seen_tokens - probs.shape[1])
            return
        if probs.shape[1] != 1:
            raise EngineError(
                f"{place}: attention: expected 1 query in a decode step, got {probs.shape[1]}; pass decode=False for a prompt"
            )
        kv.scores[:] = decayed_scores(kv.scores, probs, self.policy.ema_alpha)
        self._decode_tokens_since_plan[layer] += 1
        first = self._plans[layer] is None
        if kv.seen_tokens >= self.policy.trigger_min_tokens and (
            first or self._decode_tokens_since_plan[layer] >= self.policy.update_interval
        ):
            self._evict(layer)

    def end_token(self) -> None:
        """Once per decode token, after all layers: takes in finished encodes and submits at most one more."""
        self._store.end_token()

    def finish(self) -> KvReport:
        """Wait for all encodes, end the threads, and report; the cache can be used for another turn."""
        self._store.finish()
        return self._report()

    def close(self) -> None:
        """End the threads, dropping what waits; the cache must not be used afterwards."""
        self._store.queue.close()

    def _image(self, layer: int, part: Part) -> F32:
        kv = self._layers[layer]
        if kv.n_tokens > len(self._scratch):
            self._ledger.remove(None, self._scratch.nbytes)
            self._scratch = np.empty((0, *self._scratch.shape[1:]), dtype=np.float32)  # free it before its successor is made
            capacity = -(-kv.n_tokens // _SCRATCH_STEP_TOKENS) * _SCRATCH_STEP_TOKENS
            self._scratch = np.empty((capacity, *self._scratch.shape[1:]), dtype=np.float32)
            self._ledger.add(None, self._scratch.nbytes)
        rows = self._scratch[: kv.n_tokens]
        kv.write_part(part, rows, self._store.read_group)
        return rows.transpose(1, 0, 2)  # [n_seq, n_kv_head, head_dim] -> [n_kv_head, n_seq, head_dim]

    def _evict(self, layer: int) -> None:
        started = perf_counter()
        kv = self._layers[layer]
        plan = plan_keep(kv.scores, kv.seen_tokens, self.policy)
        if plan.kept_tokens < kv.n_tokens:
            gone = kv.compact(plan.kept, self.policy.update_interval, self._store.read_group)
            self._store.cache.drop(gone)
        evict_us = (perf_counter() - started) * 1e6
        self._evict_us += evict_us
        report = plan_report(layer, plan, run_count(kv.positions), self.shape.bytes_per_token, evict_us)
        self._plans[layer] = report
        self._decode_tokens_since_plan[layer] = 0
        self._store.open_kept(layer)
        if self._log is not None:
            self._log(plan_line(report, self.policy))

    def _report(self) -> KvReport:
        plans = tuple(plan for plan in self._plans if plan is not None)
        store, queue, layers = self._store, self._store.queue, self._layers
        in_range = range(self.policy.layer_start, min(self.policy.layer_end + 1, self.shape.n_layer))
        scratch_row_bytes = 4 * self.shape.n_kv_head * self.shape.head_dim
        range_scratch_rows = min(len(self._scratch), max((layers[layer].n_tokens for layer in in_range), default=0))
        return KvReport(
            keep_ratio=mean_over_layers(plans, "keep_ratio"),
            lossy_ratio=mean_over_layers(plans, "lossy_ratio"),
            target_keep=mean_over_layers(plans, "target_keep"),
            effective_keep=mean_over_layers(plans, "effective_keep"),
            floor_keep=mean_over_layers(plans, "floor_keep"),
            quantized_keep=mean_over_layers(plans, "quantized_keep"),
            evict_us=self._evict_us,
            codec_us=store.comp_us / store.encode_attempts if store.encode_attempts else None,
            lossless_ratio=store.raw_bytes / store.comp_bytes if store.comp_bytes else None,
            raw_bytes=store.raw_bytes,
            comp_bytes=store.comp_bytes,
            comp_us=store.comp_us,
            decomp_us=store.decomp_us,
            queue_peak=queue.peak_depth,
            fallback=store.fallback_reasons.total(),
            fallback_reasons=dict(store.fallback_reasons),
            backpressure_skip=store.backpressure_skip,
            async_queue_peak=queue.async_peak_depth,
            async_wait_us=queue.wait_us,
            cache_hit=store.cache.hits,
            cache_miss=store.cache.misses,
            full_bytes=sum(kv.seen_tokens for kv in layers) * self.shape.bytes_per_token,
            resident_bytes=self._ledger.resident_bytes,
            peak_bytes=self._ledger.peak_bytes,
            range_full_bytes=sum(layers[layer].seen_tokens for layer in in_range) * self.shape.bytes_per_token,
            range_resident_bytes=sum(self._ledger.layer_bytes(layer) for layer in in_range) + range_scratch_rows * scratch_row_bytes,
            coverage=store.coverage(),
            encoded_front_bytes=store.encoded_bytes["front"],
            encoded_kept_bytes=store.encoded_bytes["kept"],
            mismatch_blocks=store.mismatch_blocks,
            kept_tokens=tuple(kv.n_tokens for kv in layers),
        )
