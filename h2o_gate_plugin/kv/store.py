"""The lossless store: picks cold groups, has them encoded, keeps or checks what comes back, and decodes what it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import Codec, Part
from h2o_gate_plugin.kv.decode_cache import DecodeCache
from h2o_gate_plugin.kv.encode_queue import EncodeJob, EncodeOutcome, EncodeQueue
from h2o_gate_plugin.kv.eviction import Indices
from h2o_gate_plugin.kv.frame import unpack
from h2o_gate_plugin.kv.layer import COVERED, FAILED, PACKED, PARTS, PENDING, QUEUED, LayerKv, PackedGroup
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.log_lines import lossless_line
from h2o_gate_plugin.kv.scope import ScopeLayer, ScopePart, cold_range, scope_layers
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv.words import U16

SHORTEST_FLUSH_TOKENS = 32
"""A shorter rest is encoded together with older cold tokens: a few tokens alone are smaller than any frame around them."""


class LosslessStore:
    """Works on the calling thread except for encoding; token states change there alone.

    A layer's cold tokens are grouped from the oldest on: bootstrap_tokens first, then group_tokens. At most one group is
    submitted per decode token, over all layers in turn, whatever the queue's depth: a slow codec makes the queue grow.
    """

    def __init__(
        self, policy: KvPolicy, layers: Sequence[LayerKv], codec: Codec, ledger: ResidentLedger, log: Callable[[str], None] | None
    ) -> None:
        self._policy, self._layers, self.codec, self._ledger, self._log = policy, layers, codec, ledger, log
        self.scope = scope_layers(policy, len(layers))
        self._encoded = tuple(entry for entry in self.scope if entry.sampled)
        self._parts: dict[int, ScopePart] = {entry.layer: entry.part for entry in self.scope}
        self._open = {entry.layer for entry in self.scope if entry.part == "front"}
        self.queue = EncodeQueue(codec, policy.async_threads, policy.max_queue, ledger)
        self.cache = DecodeCache(policy.decode_cache_blocks, ledger)
        self._updates = [0] * len(layers)
        self._look_again = [0] * len(layers)
        self._last_group = 0
        self._turn = 0
        self._decode_tokens = 0
        self.raw_bytes = self.comp_bytes = 0
        self.comp_us = self.decomp_us = 0.0
        self.encode_attempts = 0
        self.encoded_bytes: dict[ScopePart, int] = dict.fromkeys(self._parts.values(), 0)
        self.fallback_reasons: Counter[str] = Counter()
        self.backpressure_skip = 0
        self.mismatch_blocks = 0

    def open_kept(self, layer: int) -> None:
        """H2O has planned this layer: what it kept is in scope."""
        if layer in self._parts:
            self._open.add(layer)
            self._look_again[layer] = 0  # eviction may have taken groups apart

    def end_token(self) -> None:
        """Take in finished groups and submit the next one. Raises what a worker raised, CodecError excepted."""
        if not self._encoded:
            return
        self._collect()
        self._decode_tokens += 1
        for step in range(len(self._encoded)):
            turn = (self._turn + step) % len(self._encoded)
            entry = self._encoded[turn]
            group = self._full_group(entry) if self._decode_tokens % entry.interval == 0 else None
            if group is not None:
                if self.queue.full:
                    self._refuse(entry.layer, group)
                else:
                    self._turn = turn + 1
                    self._submit(entry.layer, group, flush=False)
                    self._collect()  # what was encoded without threads is done already
                return

    def read_group(self, packed: PackedGroup, part: Part) -> U16:
        """The exact words of a packed group, from the decode cache or decoded; raises CodecError when the frame is not sound."""
        words = self.cache.get(packed.group, part)
        if words is not None:
            return words
        started = perf_counter()
        try:
            frame = unpack(packed.frames[part], self.codec)
            found = (frame.layer, frame.part, frame.token_start, len(frame.tensor))
            if found != (packed.layer, part, packed.start, packed.n_tokens):
                raise CodecError(f"frame: expected {(packed.layer, part, packed.start, packed.n_tokens)}, got {found}; frames were swapped")
        except CodecError as err:
            self.fallback_reasons["decode"] += 1
            self.mismatch_blocks += 1
            place = f"kv store: layer {packed.layer} {part} tokens from {packed.start}"
            self._write_log(
                f"[H2O-LOSSLESS] layer={packed.layer} start={packed.start} tokens={packed.n_tokens} fallback=1 reason=decode {err}"
            )
            raise CodecError(f"{place}: expected {packed.n_tokens} exact tokens, got {err}; the run cannot go on") from err
        self.decomp_us += (perf_counter() - started) * 1e6
        self.cache.put(packed.group, packed.layer, part, frame.tensor)
        return frame.tensor

    def finish(self) -> None:
        """Wait for the queue, encode what is cold and pending (probe mode only samples: nothing), end the threads.

        A layer that tokens are evicted from is packed anew: which of its groups were there to be taken apart depends on when the workers
        had them ready, and what a turn leaves must not. Where a block does not decode, it is counted and logged, and its layer left alone.
        """
        self._drain()
        if self._policy.mode != "probe":
            for entry in self._encoded:
                try:
                    self._encode_what_is_left(entry)
                except CodecError:  # counted and logged where it was read; whoever reads the layer's words gets the error
                    continue
            self._drain()
        self.queue.close()

    def coverage(self) -> float | None:
        """Cold tokens proven or packed / cold tokens in scope; None when nothing is cold."""
        cold = covered = 0
        for layer in self._open:
            states = self._layers[layer].states[cold_range(self._policy, self._layers[layer].n_tokens)]
            cold += len(states)
            covered += int(np.count_nonzero((states == COVERED) | (states == PACKED)))
        return covered / cold if cold else None

    def _pending(self, layer: int) -> Indices:
        """Cold tokens that are raw and not under way, oldest first."""
        if layer not in self._open:
            return np.zeros(0, dtype=np.intp)
        cold = cold_range(self._policy, self._layers[layer].n_tokens)
        pending: Indices = np.flatnonzero(self._layers[layer].states[cold] == PENDING) + cold.start
        return pending

    def _full_group(self, entry: ScopeLayer) -> Indices | None:
        layer, seen_tokens = entry.layer, self._layers[entry.layer].seen_tokens
        if seen_tokens < self._look_again[layer]:
            return None
        size = self._policy.group_tokens if self._updates[layer] else self._policy.bootstrap_tokens
        pending = self._pending(layer)
        if len(pending) >= size:
            return pending[:size]
        self._look_again[layer] = seen_tokens + size - len(pending)  # no more than one token turns cold with each that comes
        return None

    def _encode_what_is_left(self, entry: ScopeLayer) -> None:
        """Full groups, then the rest. Raises CodecError for a packed group that does not decode."""
        packed = self._layers[entry.layer].packed
        while entry.part == "kept" and packed:
            self._take_apart_newest(entry.layer)
        while (group := self._full_group(entry)) is not None:
            self._submit_when_idle(entry.layer, group, flush=False)
        if len(self._pending(entry.layer)):
            self._drain()
            self._submit_when_idle(entry.layer, self._rest(entry.layer), flush=True)

    def _rest(self, layer: int) -> Indices:
        """All pending tokens, with the newest proven or packed ones before them where they are few."""
        kv = self._layers[layer]
        while len(self._pending(layer)) < SHORTEST_FLUSH_TOKENS and kv.packed:
            self._take_apart_newest(layer)
        pending = self._pending(layer)
        cold = cold_range(self._policy, kv.n_tokens)
        covered = np.flatnonzero(kv.states[cold] == COVERED) + cold.start
        missing = max(0, SHORTEST_FLUSH_TOKENS - len(pending))
        return np.sort(np.concatenate([covered[len(covered) - min(missing, len(covered)) :], pending]))

    def _take_apart_newest(self, layer: int) -> None:
        """Make the newest packed group raw and pending again; such reads show nothing of what decoding read, and do not count."""
        kv = self._layers[layer]
        groups = tuple(kv.packed)
        hits, misses, decomp_us = self.cache.hits, self.cache.misses, self.decomp_us
        kv.take_apart(kv.packed[max(groups)], self.read_group)
        self.cache.hits, self.cache.misses, self.decomp_us = hits, misses, decomp_us
        self.cache.drop(groups)  # all were decoded for it; nobody reads them before the next turn
        self._look_again[layer] = 0

    def _submit(self, layer: int, tokens: Indices, flush: bool) -> None:
        kv, policy = self._layers[layer], self._policy
        self._last_group += 1
        if not flush:
            self._updates[layer] += 1
        kv.states[tokens] = QUEUED
        kv.groups[tokens] = self._last_group
        job = EncodeJob(
            group=self._last_group,
            layer=layer,
            start=int(kv.positions[tokens[0]]),
            words={part: kv.raw_words(part, tokens) for part in PARTS},
            dtype=kv.dtype,
            verify=policy.mode != "store" or policy.strict_roundtrip_check,
            keep_frames=policy.mode == "store",
            update=0 if flush else self._updates[layer],
        )
        self.queue.submit(job)

    def _submit_when_idle(self, layer: int, tokens: Indices, flush: bool) -> None:
        """For the end of a run: never more groups under way than threads, so that the queue's peak stays the run's own."""
        self.queue.wait_until_below(max(1, self.queue.threads))
        self._submit(layer, tokens, flush)
        self._collect()

    def _drain(self) -> None:
        self.queue.wait_until_below(1)
        self._collect()

    def _collect(self) -> None:
        for outcome in self.queue.collect():
            self._settle(outcome)

    def _settle(self, outcome: EncodeOutcome) -> None:
        job, kv = outcome.job, self._layers[outcome.job.layer]
        members = np.flatnonzero((kv.groups == job.group) & (kv.states == QUEUED))  # those not evicted meanwhile
        self.encode_attempts += 1
        self.comp_us += outcome.comp_us
        self.decomp_us += outcome.decomp_us
        if outcome.reason is not None:
            self.fallback_reasons[outcome.reason] += 1
            self.mismatch_blocks += outcome.reason in ("decode", "mismatch")
            kv.states[members] = FAILED
        else:
            self.encoded_bytes[self._parts[job.layer]] += job.raw_bytes
            if not job.keep_frames:
                kv.states[members] = COVERED
            elif len(members) == job.n_tokens:
                kv.pack(PackedGroup(job.group, job.layer, job.n_tokens, job.start, outcome.frames))
            else:  # some were evicted meanwhile: the frames hold tokens that are gone
                kv.states[members] = PENDING
                self._look_again[job.layer] = 0
                self._ledger.remove(job.layer, outcome.comp_bytes)
        if outcome.reason in (None, "expanded"):
            self.raw_bytes += job.raw_bytes
            self.comp_bytes += min(outcome.comp_bytes, job.raw_bytes)
        self._write_log(lossless_line(self._policy, job.layer, kv.n_tokens, job.start, job.n_tokens, job.raw_bytes, self.queue, outcome))

    def _refuse(self, layer: int, tokens: Indices) -> None:
        kv = self._layers[layer]
        self.backpressure_skip += 1
        start, raw_bytes = int(kv.positions[tokens[0]]), sum(kv.raw_words(part, tokens[:1]).nbytes for part in PARTS) * len(tokens)
        self._write_log(lossless_line(self._policy, layer, kv.n_tokens, start, len(tokens), raw_bytes, self.queue, None))

    def _write_log(self, line: str) -> None:
        if self._log is not None:
            self._log(line)
