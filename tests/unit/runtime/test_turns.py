"""Whether what the second turn attends to is what the first turn left, under every mode and under stores that lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.codec import Part, codec_by_name
from h2o_gate_plugin.kv.layer import PackedGroup
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv.store import LosslessStore
from h2o_gate_plugin.kv.words import U16
from h2o_gate_plugin.kv_options import KvValue, suite_values
from h2o_gate_plugin.runtime.arguments import parse_arguments
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.instances import sweep
from h2o_gate_plugin.runtime.measure import load, measure_instance
from h2o_gate_plugin.runtime.prompts import Prompt
from h2o_gate_plugin.runtime.timed_run import kv_shape
from h2o_gate_plugin.runtime.turns import turns_mismatch_rows

KEYS: dict[str, KvValue] = {
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 2,
    "kv_h2o_sink_tokens": 2,
    "kv_h2o_recent_tokens": 8,
    "kv_h2o_update_interval": 4,
    "kv_h2o_trigger_min_tokens": 16,
    "kv_lossless_front_n": 1,
    "kv_h2o_target_lossy_ratio": 1.6,
    "kv_lossless_block_tokens": 32,
    "kv_lossless_store_bootstrap_tokens": 32,
    "kv_lossless_store_grouped_step_tokens": 32,
    "kv_lossless_hot_recent_tokens": 4,
    "kv_lossless_hot_sink_tokens": 0,
    "kv_lossless_kept_sample_layers": 0,
    "kv_lossless_store_disable_front": False,
}
FIRST = Prompt("text", tuple(range(40, 140)), tuple(range(100, 124)))
SECOND = Prompt("text", tuple(range(90, 70, -1)), tuple(range(30, 42)))
STORE = KvPolicy.from_values(suite_values(KEYS | {"kv_lossless_runtime_mode": "store"}, "test"))


class LyingStore(LosslessStore):
    """Sound until the cache has seen its second prompt; from then on `lie` stands for what a packed group holds."""

    def read_group(self, packed: PackedGroup, part: Part) -> U16:
        words = super().read_group(packed, part)
        return self.lie(words) if self._layers[packed.layer].seen_tokens > len(FIRST.ids) + len(FIRST.continuation) else words

    def lie(self, words: U16) -> U16:
        return np.zeros_like(words)


class StaleStore(LyingStore):
    """The group's rows one place later: words of other tokens."""

    def lie(self, words: U16) -> U16:
        return np.roll(words, 1, axis=0)


def opened(model: Model, store: type[LosslessStore]) -> Callable[[KvPolicy], KvCache]:
    def open_cache(policy: KvPolicy) -> KvCache:
        cache = KvCache(kv_shape(model), policy)
        codec = codec_by_name(policy.codec, policy.k_predictors, policy.v_predictors)
        cache._store = store(cache.policy, cache._layers, codec, cache._ledger, None)
        return cache

    return open_cache


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
@pytest.mark.parametrize("threads", [0, 1])
def test_no_row_differs_whatever_the_store_did(tiny: Model, mode: str, threads: int) -> None:
    changes: dict[str, KvValue] = {"kv_lossless_runtime_mode": mode, "kv_lossless_async_threads": threads}
    policy = KvPolicy.from_values(suite_values(KEYS | changes, "test"))
    reports: list[Any] = []

    class Reporting(KvCache):
        def finish(self) -> Any:
            reports.append(super().finish())
            return reports[-1]

    assert turns_mismatch_rows(tiny, FIRST, SECOND, policy, lambda used: Reporting(kv_shape(tiny), used)) == 0
    first, second, plain, _ = reports
    assert second.raw_bytes > first.raw_bytes > plain.raw_bytes == 0, "both turns encoded, and the plain cache nothing"
    assert second.kept_tokens[1] < second.kept_tokens[0] == 156


@pytest.mark.parametrize("store", [LyingStore, StaleStore])
def test_zeros_or_stale_words_in_the_second_turn_are_counted(tiny: Model, store: type[LosslessStore]) -> None:
    assert turns_mismatch_rows(tiny, FIRST, SECOND, STORE, opened(tiny, LosslessStore)) == 0
    assert turns_mismatch_rows(tiny, FIRST, SECOND, STORE, opened(tiny, store)) > 50


def test_one_kept_token_more_counts_its_k_row_and_its_v_row_and_other_logits_one(tiny: Model) -> None:
    class OneMore(KvCache):
        """Where something is encoded, the last layer says it kept position 1000 too."""

        def positions(self, layer: int) -> Any:
            more = [1000] if self.policy.lossless and layer == 2 else []
            return np.append(super().positions(layer), more).astype(np.int64)

        def words(self, layer: int, part: Part) -> U16:
            words = super().words(layer, part)
            return np.concatenate([words, words[:1]]) if self.policy.lossless and layer == 2 else words

    assert turns_mismatch_rows(tiny, FIRST, SECOND, STORE, lambda used: OneMore(kv_shape(tiny), used)) == 2

    class LastRowOff(KvCache):
        """Where something is encoded, the very last token's output is off in the last layer: no row shows it."""

        def attend(self, layer: int, *args: Any, **kwargs: Any) -> Any:
            mixed = super().attend(layer, *args, **kwargs)
            return mixed + 1 if self.policy.lossless and layer == 2 and self.n_seen == 156 else mixed

    assert turns_mismatch_rows(tiny, FIRST, SECOND, STORE, lambda used: LastRowOff(kv_shape(tiny), used)) == 1


def test_a_damaged_block_ends_the_measurement(tiny: Model) -> None:
    class Cut(KvCache):
        def finish(self) -> Any:
            report = super().finish()
            for kv in self._layers:
                kv.packed = {group: replace(packed, frames={"k": b"", "v": b""}) for group, packed in kv.packed.items()}
            return report

    with pytest.raises(CodecError, match=r"kv store: layer \d k tokens"):
        turns_mismatch_rows(tiny, FIRST, SECOND, replace(STORE, decode_cache_blocks=0), lambda used: Cut(kv_shape(tiny), used))


def test_turns_are_measured_with_quality_where_kv_features_are_on_and_the_context_holds_them(bench_config: Callable[..., Path]) -> None:
    def rows(line: str, keys: dict[str, KvValue], quality: bool = True) -> int | None:
        loaded = replace(load(bench_config(**keys), "text", 1), quality=quality)
        (instance,) = sweep(parse_arguments(["-m", "m", "-t", "1", "-kv", "true", *line.split()]))
        return measure_instance(loaded, instance, 1, None).turns_mismatch_rows

    on: dict[str, KvValue] = KEYS | {"kv_h2o_enable": True}
    assert rows("-p 100 -n 2", on) == 0
    assert rows("-p 880 -n 2", on) == 0, "880 + 48 + 64 + 32 = 1024"
    assert rows("-p 881 -n 2", on) is None
    assert rows("-p 100 -n 2", {}) is None
    assert rows("-p 100 -n 2", on, quality=False) is None
