"""Faults in memory and in the lossless store: bytes that are not given back, not covered, not exact, or not told of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace as with_fields
from typing import Any

import numpy as np

import h2o_gate_plugin.kv.cache as cache_module
import h2o_gate_plugin.kv.encode_queue as queue_module
import h2o_gate_plugin.kv.store as store_module
import h2o_gate_plugin.runtime.measure as measure_module
import h2o_gate_plugin.runtime.timed_run as timed_module
import h2o_gate_plugin.runtime.trace as trace_module
from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.codec import Codec, Part
from h2o_gate_plugin.kv.decode_cache import DecodeCache
from h2o_gate_plugin.kv.encode_queue import EncodeOutcome, EncodeQueue, encode_group
from h2o_gate_plugin.kv.eviction import Indices, Plan, plan_keep
from h2o_gate_plugin.kv.frame import UnpackedFrame, unpack
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.layer import PARTS, LayerKv, PackedGroup
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.report import KvReport, PlanReport, plan_report
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.kv.store import LosslessStore
from h2o_gate_plugin.kv.words import F32, U16
from h2o_gate_plugin.runtime.checkpoint import Model

from .planting import Plant, replace

SLOW_ENCODE_S = 0.05


def memory_not_returned() -> None:
    """Compaction moves the kept rows together and holds on to arrays of the old size."""
    memory_returned_at_the_end()
    replace(LayerKv, "trim", lambda self: None)


def memory_returned_at_the_end() -> None:
    """Arrays of the old size are held through the whole decode, and given back when the last token is out."""
    compact = LayerKv.compact

    def hoarding(self: LayerKv, kept: Indices, spare_tokens: int, read_group: Any) -> tuple[int, ...]:
        return compact(self, kept, len(self._raw["k"]) - len(kept), read_group)

    replace(LayerKv, "compact", hoarding)


def ratio_of_lengths() -> None:
    """A plan is made and reported, and nothing is moved: h2o_lossy is arithmetic on lengths."""

    def reported_only(self: LayerKv, kept: Indices, spare_tokens: int, read_group: Any) -> tuple[int, ...]:
        return ()

    replace(LayerKv, "compact", reported_only)


def inactive_steps_counted() -> None:
    """The trigger is never reached, and every inactive step counts as one at the target ratio."""
    report = KvCache._report

    def never(self: KvCache, layer: int) -> None:
        self._store.open_kept(layer)

    def counted(self: KvCache) -> KvReport:
        ratio = self.policy.target_lossy_ratio
        return with_fields(report(self), lossy_ratio=ratio, keep_ratio=1 / ratio, evict_us=1.0) if self.policy.h2o_enable else report(self)

    replace(KvCache, "_plan_when_due", never)
    replace(KvCache, "_report", counted)


def kept_count_zero() -> None:
    """The budget is rounded down to whole blocks of 32 and the protected ends are forgotten: a short prompt keeps nothing."""

    def planned(scores: Any, seen_tokens: int, policy: KvPolicy) -> Plan:
        plan = plan_keep(scores, seen_tokens, policy)
        return with_fields(plan, kept=np.empty(0, dtype=np.intp)) if plan.wanted_tokens // 32 == 0 else plan

    def reported(layer: int, plan: Plan, *others: Any) -> PlanReport:
        return plan_report(layer, plan if plan.kept_tokens else with_fields(plan, kept=np.zeros(1, dtype=np.intp)), *others)

    replace(cache_module, "plan_keep", planned)
    replace(cache_module, "plan_report", reported)


def kv_per_query_head() -> None:
    """K and V are repeated for every query head of a group before they are stored."""
    kv_shape, attend = timed_module.kv_shape, KvCache.attend

    def wide(model: Model) -> KvShape:
        return with_fields(kv_shape(model), n_kv_head=model.config.n_head)

    def repeated(self: KvCache, layer: int, queries: F32, keys: F32, values: F32, decode: bool) -> F32:
        group = queries.shape[1] // keys.shape[1]
        return attend(self, layer, queries, np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1), decode)

    for module in (timed_module, measure_module, trace_module):
        replace(module, "kv_shape", wide)
    replace(KvCache, "attend", repeated)


def layer_count_by_default() -> None:
    """The model's layer count is not read: 32 layers are planned for, of which 24 never see a token."""
    kv_shape, resolved = timed_module.kv_shape, KvPolicy.resolved

    def of_32(model: Model) -> KvShape:
        return with_fields(kv_shape(model), n_layer=32)

    def to_the_last(self: KvPolicy, n_layer: int, place: str = "kv policy") -> KvPolicy:
        return with_fields(resolved(self, n_layer, place), layer_end=-1 if n_layer < 32 else 31)

    replace(timed_module, "kv_shape", of_32)
    replace(measure_module, "kv_shape", of_32)
    replace(KvPolicy, "resolved", to_the_last)
    replace(KvCache, "n_seen", property(lambda self: self._layers[0].seen_tokens))


def three_groups_only() -> None:
    """The first three groups of a run are encoded, and their ratio is reported as the ratio."""
    pending = LosslessStore._pending

    def of_first_three(self: LosslessStore, layer: int) -> Indices:
        return pending(self, layer) if self._last_group < 3 else np.empty(0, dtype=np.intp)

    replace(LosslessStore, "_pending", of_first_three)


def zeros_instead_of_rows() -> None:
    """Packing overwrites the raw rows with zeros and keeps them, to be filled again when they are read."""
    pack = LayerKv.pack

    def zeroed(self: LayerKv, packed: PackedGroup) -> None:
        before = self._raw
        pack(self, packed)
        held = self.__dict__.setdefault("zeroed", {})
        held[packed.group] = np.zeros((2, packed.n_tokens, *before["k"].shape[1:]), dtype=np.uint16)
        self._ledger.add(self.layer, held[packed.group].nbytes)

    compact = LayerKv.compact

    def released(self: LayerKv, *args: Any) -> tuple[int, ...]:
        gone = compact(self, *args)
        for group in gone:
            self._ledger.remove(self.layer, self.__dict__["zeroed"].pop(group).nbytes)
        return gone

    replace(LayerKv, "pack", zeroed)
    replace(LayerKv, "compact", released)


def all_restored_at_once() -> None:
    """Every 16 decoded tokens the whole cache of every layer is restored beside what is held, and dropped again."""
    end_token = KvCache.end_token

    def restoring(self: KvCache) -> None:
        end_token(self)
        if self.policy.active and self.n_seen % 16 == 0:
            n_bytes = self.shape.n_layer * self.n_seen * self.shape.bytes_per_token
            restored = np.zeros(n_bytes, dtype=np.uint8)
            self._ledger.add(None, restored.nbytes)
            self._ledger.remove(None, restored.nbytes)

    replace(KvCache, "end_token", restoring)


def raw_copy_in_decode_cache() -> None:
    """The decode cache is filled with the raw rows when a group is packed: what is read is a copy of them, never the frame."""
    init, settle = DecodeCache.__init__, LosslessStore._settle

    def unbounded(self: DecodeCache, max_blocks: int, ledger: ResidentLedger) -> None:
        init(self, 1_000_000, ledger)

    def copied(self: LosslessStore, outcome: EncodeOutcome) -> None:
        settle(self, outcome)
        job = outcome.job
        for part in PARTS if job.group in self._layers[job.layer].packed else ():
            self.cache.put(job.group, job.layer, part, job.words[part].copy())

    replace(DecodeCache, "__init__", unbounded)
    replace(LosslessStore, "_settle", copied)


def second_turn_reads_zeros() -> None:
    """A prompt on a cache with packed groups attends over zeros in their place."""
    write_image = LayerKv.write_image

    def zeros_for_packed(self: LayerKv, part: Part, out: F32, read_group: Any) -> None:
        def zeros(packed: PackedGroup, part: Part) -> U16:
            return np.zeros_like(read_group(packed, part))

        write_image(self, part, out, zeros)

    replace(LayerKv, "write_image", zeros_for_packed)


def codec_loses_a_bit() -> None:
    """The lowest bit of every V word is lost on the way, and nothing in the engine compares checksums or repeats."""

    def lossy(frame: bytes, codec: Codec | None = None) -> UnpackedFrame:
        found = unpack(frame, codec)
        return found._replace(tensor=found.tensor & np.uint16(0xFFFE)) if found.part == "v" else found

    replace(store_module, "unpack", lossy)
    replace(queue_module, "unpack", lossy)
    replace(measure_module, "check_repeats", lambda runs, name: None)


def encoder_is_slow() -> None:
    """Every group takes the encoder 50 ms longer."""

    def slowly(*args: Any) -> Any:
        time.sleep(SLOW_ENCODE_S)
        return encode_group(*args)

    replace(queue_module, "encode_group", slowly)


def queue_refuses() -> None:
    """Every group takes the encoder 50 ms longer, and the queue takes two groups and refuses the rest."""
    encoder_is_slow()
    replace(EncodeQueue, "full", property(lambda self: self.depth >= 2))


def every_encode_fails() -> None:
    """The encoder raises for every group."""

    def failing(self: GearV22, tensor: U16, part: Part) -> bytes:
        raise CodecError("planted: encode: expected to be able to encode, got a planted failure; remove it")

    replace(GearV22, "encode", failing)


def every_encode_fails_untold() -> None:
    """The encoder raises for every group, and the run reports 0 of it and logs none."""
    every_encode_fails()
    report = KvCache._report
    replace(KvCache, "_report", lambda self: with_fields(report(self), fallback=0, fallback_reasons={}))
    replace(LosslessStore, "_write_log", lambda self, line: None)


PLANTS: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        memory_not_returned,
        memory_returned_at_the_end,
        ratio_of_lengths,
        inactive_steps_counted,
        kept_count_zero,
        kv_per_query_head,
        layer_count_by_default,
        three_groups_only,
        zeros_instead_of_rows,
        all_restored_at_once,
        raw_copy_in_decode_cache,
        second_turn_reads_zeros,
        codec_loses_a_bit,
        encoder_is_slow,
        queue_refuses,
        every_encode_fails,
        every_encode_fails_untold,
    )
}
