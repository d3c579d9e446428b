"""The KV cache that a model runs on: exact 16-bit KV, H2O eviction and the lossless store behind one door."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from types import TracebackType

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.attention import DONE, KV_NOT_FINITE, decode_attention, mixed_values, prompt_attention
from h2o_gate_plugin.kv.codec import Codec, Part, codec_by_name
from h2o_gate_plugin.kv.eviction import control_scores, near_count, plan_keep, seeded_scores
from h2o_gate_plugin.kv.layer import PARTS, LayerKv
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.log_lines import plan_line
from h2o_gate_plugin.kv.report import KvReport, PlanReport, mean_over_layers, plan_report
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.kv.store import LosslessStore
from h2o_gate_plugin.kv.words import F32, U16, rounded, typed

PROMPT_STEP_TOKENS = 256
"""Queries of a prompt that attend at once: bounds the probabilities at n_head * 256 * n_seq floats."""

_NO_SCORES = np.empty(0, dtype=np.float64)


class KvCache:
    """Per layer and prompt chunk or decode token `attend`; per decode token `end_token`; per run `finish`.

    Attention reads the exact words of every kept token, whatever is packed. Kept positions depend on the attention alone, never
    on the timing of worker threads.
    """

    def __init__(self, shape: KvShape, policy: KvPolicy, log: Callable[[str], None] | None = None, codec: Codec | None = None) -> None:
        """``log`` gets the statistics lines when the policy logs. ``codec`` None: the policy's. Raises ConfigError."""
        self.shape = shape
        self.policy = policy.resolved(shape.n_layer)
        self._log = log if policy.log_stats else None
        self._ledger = ResidentLedger(shape.n_layer)
        self._layers = tuple(LayerKv(layer, shape, self._ledger) for layer in range(shape.n_layer))
        used = codec_by_name(policy.codec, policy.k_predictors, policy.v_predictors, shape.dtype) if codec is None else codec
        self._store = LosslessStore(self.policy, self._layers, used, self._ledger, self._log)
        self._in_range = tuple(self.policy.in_range(layer) for layer in range(shape.n_layer))
        self._no_rows = typed(np.empty((0, shape.n_kv_head, shape.head_dim), dtype=np.uint16), shape.dtype)
        self._plans: list[PlanReport | None] = [None] * shape.n_layer
        self._decode_tokens_since_plan = [0] * shape.n_layer
        self._has_decoded = False
        self._evict_us = 0.0
        self._range_decoding_bytes = 0

    def __enter__(self) -> KvCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def n_seen(self) -> int:
        """Tokens taken in by every layer so far, evicted ones included: the next absolute position."""
        return self._layers[-1].seen_tokens

    def positions(self, layer: int) -> npt.NDArray[np.int64]:
        """Absolute positions of the kept tokens, a copy."""
        return self._layers[layer].positions.copy()

    def words(self, layer: int, part: Part) -> U16:
        """The kept K or V, a copy: u16 [n_seq, n_kv_head, head_dim]. Raises CodecError for a damaged block."""
        return self._layers[layer].words(part, self._store.read_group)

    def resident_bytes(self, layers: Iterable[int]) -> int:
        """Bytes of every live array or frame that holds K or V of these layers, copies that wait for a worker included."""
        return sum(self._ledger.layer_bytes(layer) for layer in layers)

    @property
    def total_resident_bytes(self) -> int:
        """Of all layers, and of what they share: decoded copies."""
        return self._ledger.resident_bytes

    def attend(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        """Take in new tokens, and attend with them causally over everything kept; [n_new, n_head, d] -> [n_new, n_head * d].

        ``keys`` (after RoPE, as the queries) and ``values``: float32 [n_new, n_kv_head, d], rounded to the cache's dtype once.
        ``decode`` False: a chunk of a prompt, whose attention seeds the scores. True: one token, which updates them, and after
        which tokens may be evicted. Raises EngineError for wrong shapes and for what is not finite, CodecError for a damaged block.
        """
        self._check_shapes(layer, queries, keys, values, decode)
        if not decode:
            return self._attend_prompt(layer, queries, keys, values)
        kv, n_head = self._layers[layer], queries.shape[1]
        row = kv.extend(1)
        unpacked_keys = unpacked_values = self._no_rows
        if kv.packed:
            unpacked_keys = typed(kv.unpacked_rows("k", self._store.read_group), self.shape.dtype)
            unpacked_values = typed(kv.unpacked_rows("v", self._store.read_group), self.shape.dtype)
        probs = np.empty((n_head, kv.n_tokens), dtype=np.float32)
        mixed = np.empty((n_head, self.shape.head_dim), dtype=np.float32)
        scratch_bytes = unpacked_keys.nbytes + unpacked_values.nbytes
        if scratch_bytes:
            self._ledger.add(layer, scratch_bytes)
        status = decode_attention(
            queries[0],
            keys[0],
            values[0],
            kv.typed_rows("k"),
            kv.typed_rows("v"),
            row,
            unpacked_keys,
            unpacked_values,
            kv.runs(),
            probs,
            mixed,
            kv.scores if self._in_range[layer] else _NO_SCORES,
            self.policy.ema_alpha,
            self.policy.score == "mean_square",
            self._near_tokens(layer) if self.policy.score_near_tokens else 0,
        )
        if scratch_bytes:
            self._ledger.remove(layer, scratch_bytes)
        if status != DONE:
            raise self._not_finite(layer, status, keys, values)
        self._has_decoded = True
        if self._in_range[layer]:
            self._plan_when_due(layer)
        return mixed.reshape(1, -1)

    def end_token(self) -> None:
        """Once per decode token, after all layers: takes in finished encodes and submits at most one more."""
        self._store.end_token()

    def fork(self, policy: KvPolicy) -> KvCache:
        """A cache of its own with the same tokens and scores under another policy: one prompt, decoded in several ways.

        Raises EngineError after a decode token.
        """
        if self._has_decoded:
            raise EngineError("kv cache: fork: expected a cache that has seen prompts only, got one after a decode token; fork it before")
        twin = KvCache(self.shape, policy)
        twin._layers = tuple(kv.fork(self.shape, twin._ledger) for kv in self._layers)
        twin._store = LosslessStore(twin.policy, twin._layers, self._store.codec, twin._ledger, None)
        return twin

    def finish(self) -> KvReport:
        """Wait for all encodes, end the threads, and report; the cache can be used for another turn."""
        self._range_decoding_bytes = self.resident_bytes(self._range)  # before anything is tidied up: what is held while decoding
        self._store.finish()
        for layer in self._layers:
            if self._in_range[layer.layer]:
                layer.trim()
        return self._report()

    def close(self) -> None:
        """End the threads, dropping what waits; the cache must not be used afterwards."""
        self._store.queue.close()

    def _attend_prompt(self, layer: int, queries: F32, keys: F32, values: F32) -> F32:
        kv = self._layers[layer]
        kv.append(keys, values)
        n_kept, n_seen = kv.n_tokens - len(queries), kv.seen_tokens - len(queries)
        images = np.empty((2, kv.n_tokens, self.shape.n_kv_head, self.shape.head_dim), dtype=np.float32)
        mixed = np.empty((len(queries), queries.shape[1] * self.shape.head_dim), dtype=np.float32)
        self._ledger.add(layer, images.nbytes)
        try:
            for part, image in zip(PARTS, images, strict=True):
                kv.write_image(part, image, self._store.read_group)
            for start in range(0, len(queries), PROMPT_STEP_TOKENS):
                some = queries[start : start + PROMPT_STEP_TOKENS]
                visible = slice(0, n_kept + start + len(some))
                probs = prompt_attention(some, images[0, visible], f"kv layer {layer}")
                mixed[start : start + len(some)] = mixed_values(probs, images[1, visible])
                if self._in_range[layer]:
                    scores, positions = kv.scores[visible], kv.positions[visible]
                    scores[:] = seeded_scores(scores, probs, positions, n_seen + start, self.policy)
        finally:
            self._ledger.remove(layer, images.nbytes)
        return mixed

    def _near_tokens(self, layer: int) -> int:
        kv, n_near = self._layers[layer], self.policy.score_near_tokens
        if n_near <= self.policy.recent_tokens:  # none of those is ever evicted, so that they stand side by side: no need to look
            return min(n_near, kv.n_tokens)
        return near_count(kv.positions, n_near)

    def _plan_when_due(self, layer: int) -> None:
        self._decode_tokens_since_plan[layer] += 1
        if self._layers[layer].seen_tokens >= self.policy.trigger_min_tokens and (
            self._plans[layer] is None or self._decode_tokens_since_plan[layer] >= self.policy.update_interval
        ):
            self._evict(layer)

    def _evict(self, layer: int) -> None:
        started = perf_counter()
        kv, selection = self._layers[layer], self.policy.selection
        scores = kv.scores if selection == "heavy" else control_scores(selection, layer, kv.positions)
        plan = plan_keep(scores, kv.seen_tokens, self.policy)
        if plan.kept_tokens < kv.n_tokens:
            gone = kv.compact(plan.kept, self.policy.update_interval, self._store.read_group)
            self._store.cache.drop(gone)
        evict_us = (perf_counter() - started) * 1e6
        self._evict_us += evict_us
        report = plan_report(layer, plan, kv.position_runs, self.shape.bytes_per_token, evict_us)
        self._plans[layer] = report
        self._decode_tokens_since_plan[layer] = 0
        self._store.open_kept(layer)
        if self._log is not None:
            self._log(plan_line(report, self.policy))

    def _check_shapes(self, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> None:
        n_new, n_head, _ = queries.shape
        expected = (n_new, self.shape.n_kv_head, self.shape.head_dim)
        if keys.shape != expected or values.shape != expected:
            raise EngineError(
                f"kv layer {layer}: keys and values: expected {expected}, got {keys.shape} and {values.shape}; check the model"
            )
        if queries.shape[2] != self.shape.head_dim or n_head % self.shape.n_kv_head or (decode and n_new != 1):
            want = f"{'1 token' if decode else 'tokens'} with a multiple of {self.shape.n_kv_head} heads of {self.shape.head_dim}"
            raise EngineError(f"kv layer {layer}: queries: expected {want}, got {queries.shape}; check the model")

    def _not_finite(self, layer: int, status: int, keys: F32, values: F32) -> EngineError:
        place = f"kv layer {layer}"
        if status == KV_NOT_FINITE:
            try:
                for name, rows in (("keys", keys), ("values", values)):
                    rounded(rows, self.shape.dtype, f"{place}: {name}")
            except EngineError as err:
                return err
        return EngineError(f"{place}: attention: expected finite scores, got others; the weights or the KV cache are broken")

    @property
    def _range(self) -> range:
        """The layers that the policy lets H2O evict from, be it on or off."""
        return range(self.policy.layer_start, min(self.policy.layer_end + 1, self.shape.n_layer))

    def _report(self) -> KvReport:
        plans = tuple(plan for plan in self._plans if plan is not None)
        store, queue, layers = self._store, self._store.queue, self._layers
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
            range_full_bytes=sum(layers[layer].seen_tokens for layer in self._range) * self.shape.bytes_per_token,
            range_resident_bytes=self.resident_bytes(self._range),
            range_decoding_bytes=self._range_decoding_bytes,
            coverage=store.coverage(),
            encoded_front_bytes=store.encoded_bytes.get("front"),
            encoded_kept_bytes=store.encoded_bytes.get("kept"),
            mismatch_blocks=store.mismatch_blocks,
            kept_tokens=tuple(kv.n_tokens for kv in layers),
        )
