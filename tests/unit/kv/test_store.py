"""What the lossless store submits and when, what it counts, and what it does with codecs that misbehave."""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import enumerate as alive_threads
from typing import TYPE_CHECKING, Any

import pytest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.layer import COVERED, QUEUED
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape
from h2o_gate_plugin.kv_options import KvValue, suite_values

if TYPE_CHECKING:
    from tests.unit.kv.conftest import Driver

Codecs = dict[str, Callable[..., Any]]
SHAPE = KvShape(n_layer=3, n_kv_head=2, head_dim=16)
TOKEN = SHAPE.bytes_per_token


def policy(**changes: KvValue) -> KvPolicy:
    """Three front layers without H2O, groups of 6 then 8 tokens, nothing hot, encoded on the spot."""
    values: dict[str, KvValue] = {
        "kv_h2o_enable": False,
        "kv_lossless_front_n": 3,
        "kv_lossless_block_tokens": 8,
        "kv_lossless_hot_recent_tokens": 0,
        "kv_lossless_hot_sink_tokens": 0,
        "kv_lossless_store_disable_front": False,
        "kv_lossless_store_bootstrap_tokens": 6,
        "kv_lossless_store_grouped_step_tokens": 8,
        "kv_lossless_front_sample_token_interval": 1,
        "kv_lossless_async_threads": 0,
    }
    return KvPolicy.from_values(suite_values(values | {f"kv_{key}": value for key, value in changes.items()}, "test"))


def groups(lines: list[str]) -> list[tuple[int, int, int, int]]:
    """(layer, start, tokens, updates) of every lossless line."""
    pattern = re.compile(r"layer=(\d+) kv=\d+ start=(\d+) tokens=(\d+) .* updates=(\d+) ")
    found = [pattern.search(line) for line in lines if line.startswith("[H2O-LOSSLESS]")]
    return [(int(m[1]), int(m[2]), int(m[3]), int(m[4])) for m in found if m]


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_one_group_a_token_the_layers_in_turn_the_oldest_tokens_first(mode: str, driver: type[Driver], codecs: Codecs) -> None:
    lines: list[str] = []
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode), log=lines.append, codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        model.feed(5, decode=True)
        assert groups(lines) == [(0, 0, 6, 1), (1, 0, 6, 1), (2, 0, 6, 1), (0, 6, 8, 2), (1, 6, 8, 2)]
        cache.finish()
    flushed = groups(lines)[5:]
    if mode == "probe":
        assert flushed == []
    elif mode == "store":
        full_groups = [(0, 14, 8, 3), (1, 14, 8, 3), (2, 6, 8, 2), (2, 14, 8, 3)]
        assert sorted(flushed) == sorted([*full_groups, *((layer, 0, 25, 0) for layer in range(3))]), "3 tokens are left: all go together"
    else:
        assert [(layer, updates) for layer, _, _, updates in flushed] == [(0, 3), (0, 0), (1, 3), (1, 0), (2, 2), (2, 3), (2, 0)]


def test_intervals_slow_a_part_down_and_hot_tokens_are_left_alone(driver: type[Driver], codecs: Codecs) -> None:
    lines: list[str] = []
    p = policy(
        lossless_front_sample_token_interval=3, lossless_hot_sink_tokens=2, lossless_hot_recent_tokens=10, lossless_runtime_mode="probe"
    )
    with KvCache(SHAPE, p, log=lines.append, codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(14, decode=False)
        model.feed(3, decode=True)
        assert groups(lines) == []  # 17 tokens: 5 cold
        model.feed(4, decode=True)
        assert groups(lines) == [(0, 2, 6, 1)]
        assert cache.finish().coverage == pytest.approx(6 / 27)


def test_full_mode_covers_everything_cold_and_probe_says_how_little_it_saw(driver: type[Driver], codecs: Codecs) -> None:
    for mode, coverage in (("full", 1.0), ("probe", 6 / 63), ("store", 1.0)):
        with KvCache(SHAPE, policy(lossless_runtime_mode=mode), codec=codecs["zlib"]()) as cache:
            model = driver(cache)
            model.feed(20, decode=False)
            model.feed(1, decode=True)
            report = cache.finish()
        assert report.coverage == pytest.approx(coverage)
        assert report.encoded_front_bytes == report.raw_bytes > 0
        assert report.encoded_kept_bytes is None


def test_coverage_is_unmeasured_when_nothing_is_cold(driver: type[Driver]) -> None:
    with KvCache(SHAPE, policy(lossless_hot_recent_tokens=100)) as cache:
        driver(cache).feed(20, decode=False)
        report = cache.finish()
    assert (report.coverage, report.lossless_ratio, report.raw_bytes) == (None, None, 0)


def test_the_kept_range_comes_into_scope_with_its_first_plan_and_sampling_lowers_coverage(driver: type[Driver], codecs: Codecs) -> None:
    changes: dict[str, KvValue] = {
        "h2o_enable": True,
        "h2o_layer_start": 1,
        "h2o_trigger_min_tokens": 30,
        "h2o_recent_tokens": 4,
        "h2o_block_tokens": 4,
        "lossless_scope": "h2o_kept",
        "lossless_kept_sample_layers": 1,
    }
    with KvCache(SHAPE, policy(**changes), codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        model.feed(9, decode=True)
        unplanned = cache.finish()
        assert (unplanned.coverage, unplanned.raw_bytes) == (None, 0)
        model.feed(1, decode=True)
        report = cache.finish()
    assert report.coverage == pytest.approx(0.5)
    assert (report.encoded_front_bytes, report.encoded_kept_bytes) == (None, report.raw_bytes)


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_codec_that_fails_is_counted_and_the_tokens_stay_raw_and_exact(
    mode: str, threads: int, driver: type[Driver], codecs: Codecs
) -> None:
    lines: list[str] = []
    codec = codecs["failing"](CodecError("broken"), good=4)
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode, lossless_async_threads=threads), log=lines.append, codec=codec) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        model.feed(6, decode=True)
        report = cache.finish()
        model.assert_exact()
    n_good = report.raw_bytes // (6 * TOKEN)
    assert n_good == 2 or (threads and n_good < 2)  # two threads may share the four good tensors out unevenly
    assert report.fallback == report.fallback_reasons["encode"] == len(groups(lines)) - n_good > 0
    assert report.raw_bytes == report.encoded_front_bytes
    assert any(line.endswith("reason=encode broken") and "fallback=1" in line for line in lines)


def test_failures_are_counted_even_when_nothing_was_compressed(driver: type[Driver], codecs: Codecs) -> None:
    with KvCache(SHAPE, policy(), codec=codecs["failing"](CodecError("broken"))) as cache:
        driver(cache).feed(20, decode=False)
        report = cache.finish()
    assert (report.lossless_ratio, report.raw_bytes, report.coverage) == (None, 0, 0.0)
    assert report.fallback > 0


@pytest.mark.parametrize(("mode", "strict"), [("probe", False), ("full", False), ("store", True)])
def test_a_codec_that_lies_is_found_before_it_costs_a_token(mode: str, strict: bool, driver: type[Driver], codecs: Codecs) -> None:
    p = policy(lossless_runtime_mode=mode, lossless_strict_roundtrip_check=strict)
    with KvCache(SHAPE, p, codec=codecs["lying"]()) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        model.feed(3, decode=True)
        report = cache.finish()
        model.assert_exact()
    assert report.mismatch_blocks == report.fallback > 0
    assert report.raw_bytes == 0


def test_bits_are_compared_even_where_the_checksum_is_right(driver: type[Driver], codecs: Codecs) -> None:
    small = KvShape(n_layer=3, n_kv_head=2, head_dim=2)  # all 20 tokens of K or V are 160 bytes
    with KvCache(small, policy(), codec=codecs["forging"]()) as cache:
        driver(cache).feed(20, decode=False)
        report = cache.finish()
    assert report.mismatch_blocks == report.fallback > 0
    assert set(report.fallback_reasons) == {"mismatch"}


def test_without_the_strict_check_a_lying_codec_is_found_when_its_block_is_read(driver: type[Driver], codecs: Codecs) -> None:
    with KvCache(SHAPE, policy(lossless_runtime_mode="store"), codec=codecs["lying"]()) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        with pytest.raises(CodecError, match="kv store: layer 0 k tokens from 0"):
            model.feed(2, decode=True)
        assert cache._store.mismatch_blocks == 1


@pytest.mark.parametrize("mode", ["full", "store"])
def test_a_block_that_does_not_shrink_stays_raw_and_is_a_fallback(mode: str, driver: type[Driver], codecs: Codecs) -> None:
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode), codec=codecs["expanding"]()) as cache:
        model = driver(cache)
        model.feed(20, decode=False)
        model.feed(3, decode=True)
        report = cache.finish()
        model.assert_exact()
        assert not any(kv.packed for kv in cache._layers)
    assert set(report.fallback_reasons) == {"expanded"}
    assert report.lossless_ratio == 1.0


@pytest.mark.parametrize("threads", [0, 1])
def test_any_other_exception_of_a_codec_reaches_the_user(threads: int, driver: type[Driver], codecs: Codecs) -> None:
    codec = codecs["failing"](ZeroDivisionError("a bug"))
    with KvCache(SHAPE, policy(lossless_async_threads=threads), codec=codec) as cache:
        model = driver(cache)
        model.feed(20, decode=False)

        def one_token_and_finish() -> None:
            model.feed(1, decode=True)
            cache.finish()

        with pytest.raises(ZeroDivisionError, match="a bug"):
            one_token_and_finish()


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_a_slow_codec_makes_the_queue_grow_with_every_group_submitted(
    mode: str, driver: type[Driver], codecs: Codecs, kv_inventory: Callable[[KvCache], int]
) -> None:
    codec = codecs["blocked"]()
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode, lossless_async_threads=1), codec=codec) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(11, decode=True)
        model.assert_exact()
        assert cache._store.queue.depth == 11
        assert cache._ledger.resident_bytes == kv_inventory(cache)  # the queue's copies included
        codec.released.set()
        report = cache.finish()
        model.assert_exact()
        assert cache.finish().resident_bytes == kv_inventory(cache)
    assert (report.queue_peak, report.async_queue_peak, report.backpressure_skip, report.fallback) == (11, 11, 0, 0)
    assert report.async_wait_us > 0


def test_a_group_that_is_encoded_at_once_was_in_the_queue_all_the_same(driver: type[Driver], codecs: Codecs) -> None:
    with KvCache(SHAPE, policy(lossless_async_threads=1, lossless_runtime_mode="probe"), codec=codecs["zlib"]()) as cache:
        driver(cache).feed(8, decode=False)
        cache.end_token()
        assert cache.finish().queue_peak == 1


def test_nothing_to_wait_for_is_no_waiting(driver: type[Driver]) -> None:
    with KvCache(SHAPE, KvPolicy.from_values({})) as cache:
        driver(cache).feed(8, decode=True)
        assert cache.finish().async_wait_us == 0.0


def test_a_full_queue_refuses_counts_and_tries_again(driver: type[Driver], codecs: Codecs) -> None:
    lines: list[str] = []
    codec = codecs["blocked"]()
    p = policy(lossless_async_threads=1, lossless_max_queue=2)
    with KvCache(SHAPE, p, log=lines.append, codec=codec) as cache:
        model = driver(cache)
        model.feed(30, decode=False)
        model.feed(7, decode=True)
        refused = [line for line in lines if "backpressure=1" in line]
        assert len(refused) == 5
        assert "layer=2 kv=33 start=0 tokens=6 raw=768 attempt_comp=0 eff_comp=768" in refused[0]
        codec.released.set()
        report = cache.finish()
    assert (report.queue_peak, report.backpressure_skip, report.fallback, report.coverage) == (2, 5, 0, 1.0)


@pytest.mark.parametrize("mode", ["full", "store"])
def test_a_bug_in_the_codec_reaches_the_user_while_others_wait_in_a_full_queue(mode: str, driver: type[Driver], codecs: Codecs) -> None:
    codec = codecs["blocked"]()
    works = codec.encode

    def bug(tensor: Any, part: Any) -> bytes:
        works(tensor, part)
        raise ZeroDivisionError("a bug")

    codec.encode = bug
    before = len(alive_threads())
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode, lossless_async_threads=1, lossless_max_queue=2), codec=codec) as cache:
        model = driver(cache)
        model.feed(30, decode=False)
        model.feed(7, decode=True)
        assert cache._store.queue.full
        codec.released.set()
        with pytest.raises(ZeroDivisionError, match="a bug"):
            cache.finish()
    assert len(alive_threads()) == before


STORE_KEPT: dict[str, KvValue] = {
    "h2o_enable": True,
    "h2o_layer_start": 1,
    "h2o_trigger_min_tokens": 30,
    "h2o_recent_tokens": 4,
    "h2o_block_tokens": 4,
    "h2o_update_interval": 4,
    "lossless_scope": "h2o_kept",
    "lossless_kept_sample_layers": 0,
    "lossless_kept_sample_token_interval": 1,
    "lossless_runtime_mode": "store",
}


@pytest.mark.parametrize("blocks", [0, 64])
def test_a_packed_group_that_loses_tokens_is_released_and_its_survivors_are_packed_again(
    blocks: int, driver: type[Driver], codecs: Codecs, kv_inventory: Callable[[KvCache], int]
) -> None:
    p = policy(**STORE_KEPT | {"lossless_decode_cache_blocks": blocks})
    with KvCache(SHAPE, p, codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(4, decode=True)
        cache.finish()
        packed_before = [set(kv.packed) for kv in cache._layers]
        model.feed(1, decode=True)  # the second plan
        packed_after = [set(kv.packed) for kv in cache._layers]
        assert packed_before[1] - packed_after[1]
        assert cache._ledger.resident_bytes == kv_inventory(cache)
        coverage = cache._store.coverage()
        assert coverage is not None
        assert coverage < 1.0
        assert not any(COVERED in kv.states for kv in cache._layers)
        model.feed(3, decode=True)
        report = cache.finish()
        model.assert_exact()
        assert report.coverage is not None
        assert report.coverage > coverage
        assert cache._ledger.resident_bytes == kv_inventory(cache)


def test_tokens_evicted_while_their_group_is_encoded_are_no_fallback(
    driver: type[Driver], codecs: Codecs, kv_inventory: Callable[[KvCache], int]
) -> None:
    codec = codecs["blocked"]()
    with KvCache(SHAPE, policy(**STORE_KEPT | {"lossless_async_threads": 1}), codec=codec) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(9, decode=True)
        codec.released.set()
        report = cache.finish()
        model.assert_exact()
        assert report.fallback == 0
        assert {kv.layer for kv in cache._layers if QUEUED in kv.states} == set()
        assert (report.encoded_kept_bytes or 0) > sum(len(kv.packed) for kv in cache._layers) * 8 * TOKEN  # some were encoded in vain
        assert cache._ledger.resident_bytes == kv_inventory(cache)


def test_what_a_turn_leaves_does_not_depend_on_when_the_workers_were_ready(driver: type[Driver], codecs: Codecs) -> None:
    def left_behind(codec: str, threads: int) -> tuple[object, ...]:
        held = codecs[codec]()
        with KvCache(SHAPE, policy(**STORE_KEPT | {"lossless_async_threads": threads}), codec=held) as cache:
            model = driver(cache)
            model.feed(60, decode=False)
            model.feed(9, decode=True)
            if codec == "blocked":
                held.released.set()
            report = cache.finish()
            model.assert_exact()
            groups = tuple(tuple(packed.frames.items()) for kv in cache._layers for packed in kv.packed.values())
            return report.range_resident_bytes, report.resident_bytes, report.coverage, groups

    at_once, never_in_time = left_behind("zlib", 0), left_behind("blocked", 1)
    assert at_once == never_in_time
    assert at_once[2] == 1.0


def test_a_packed_group_taken_apart_at_the_end_of_a_turn_leaves_no_decoded_copy(
    driver: type[Driver], codecs: Codecs, kv_inventory: Callable[[KvCache], int]
) -> None:
    p = policy(**STORE_KEPT | {"lossless_decode_cache_blocks": 64})
    with KvCache(SHAPE, p, codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(8, decode=True)
        report = cache.finish()
        assert report.cache_hit > 0
        assert report.coverage == 1.0
        assert cache._ledger.resident_bytes == kv_inventory(cache)
        model.feed(12, decode=True)
        cache.finish()
        model.assert_exact()


def test_no_thread_outlives_finish_and_a_second_turn_starts_new_ones(driver: type[Driver], codecs: Codecs) -> None:
    def workers() -> int:
        return sum(thread.name.startswith("kv-encode") for thread in alive_threads())

    before = workers()
    with KvCache(SHAPE, policy(lossless_async_threads=2), codec=codecs["zlib"]()) as cache:
        model = driver(cache)
        model.feed(40, decode=False)
        model.feed(4, decode=True)
        assert workers() > before
        first = cache.finish()
        assert workers() == before
        model.feed(10, decode=False)
        model.feed(4, decode=True)
        second = cache.finish()
        assert second.raw_bytes > first.raw_bytes
        assert second.coverage == 1.0
        model.feed(20, decode=False)
        model.feed(2, decode=True)
    assert workers() == before


def test_a_cache_closed_in_the_middle_of_a_run_leaves_no_thread(driver: type[Driver], codecs: Codecs) -> None:
    codec = codecs["blocked"]()
    before = len(alive_threads())
    with KvCache(SHAPE, policy(lossless_async_threads=1), codec=codec) as cache:
        model = driver(cache)
        model.feed(40, decode=False)
        model.feed(4, decode=True)
        assert len(alive_threads()) == before + 1
        codec.released.set()
    assert len(alive_threads()) == before


def test_a_short_rest_is_flushed_together_with_older_tokens(driver: type[Driver], codecs: Codecs) -> None:
    lines: list[str] = []
    with KvCache(SHAPE, policy(lossless_block_tokens=40, lossless_store_bootstrap_tokens=40), log=lines.append) as cache:
        model = driver(cache)
        model.feed(40, decode=False)
        model.feed(3, decode=True)
        report = cache.finish()
    assert [group for group in groups(lines) if group[3] == 0] == [(layer, 11, 32, 0) for layer in range(3)]
    assert (report.fallback, report.coverage) == (0, 1.0)
