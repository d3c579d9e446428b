"""The whole cache against plain lists: exact KV, the right tokens, honest bytes, over random policies and turns."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.errors import CodecError, ConfigError, EngineError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.layer import PARTS
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvPolicy, KvShape, Selection
from h2o_gate_plugin.kv_options import RUNTIME_CODECS, KvValue, suite_values

if TYPE_CHECKING:
    from tests.unit.kv.conftest import Driver

F64 = npt.NDArray[np.float64]
Inventory = Callable[[KvCache], int]
Codecs = dict[str, Callable[..., Any]]

SMALL: dict[str, KvValue] = {
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 4,
    "kv_h2o_sink_tokens": 2,
    "kv_h2o_recent_tokens": 6,
    "kv_h2o_target_lossy_ratio": 2.0,
    "kv_h2o_update_interval": 3,
    "kv_h2o_trigger_min_tokens": 20,
    "kv_lossless_front_n": 1,
    "kv_lossless_block_tokens": 8,
    "kv_lossless_hot_recent_tokens": 4,
    "kv_lossless_hot_sink_tokens": 2,
    "kv_lossless_kept_sample_layers": 0,
    "kv_lossless_kept_sample_token_interval": 1,
    "kv_lossless_store_disable_front": False,
    "kv_lossless_store_bootstrap_tokens": 6,
    "kv_lossless_store_grouped_step_tokens": 8,
    "kv_lossless_async_threads": 0,
}
SHAPE = KvShape(n_layer=3, n_kv_head=2, head_dim=16)


def policy(**changes: KvValue) -> KvPolicy:
    """`SMALL` over the suite's values, with ``changes`` (keys without ``kv_``)."""
    return KvPolicy.from_values(suite_values(SMALL | {f"kv_{key}": value for key, value in changes.items()}, "test"))


mostly = st.sampled_from([True, True, True, False])
policies = st.builds(
    policy,
    h2o_enable=mostly,
    h2o_layer_start=st.integers(0, 2),
    h2o_block_tokens=st.integers(1, 9),
    h2o_sink_tokens=st.integers(0, 12),
    h2o_recent_tokens=st.sampled_from([1, 2, 4, 7, 20, 100]),
    h2o_target_mode=st.sampled_from(["static", "adaptive"]),
    h2o_target_keep_ratio=st.sampled_from([0.1, 0.3, 0.7, 1.0]),
    h2o_target_lossy_ratio=st.sampled_from([1.0, 1.3, 1.7, 3.2, 5.0]),
    h2o_ema_alpha=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    h2o_update_interval=st.integers(1, 5),
    h2o_trigger_min_tokens=st.integers(1, 40),
    lossless_enable=mostly,
    lossless_scope=st.sampled_from(["front_n", "h2o_kept", "front_n_and_h2o_kept"]),
    lossless_front_n=st.integers(0, 3),
    lossless_runtime_mode=st.sampled_from(["probe", "full", "store", "store"]),
    lossless_block_tokens=st.integers(3, 16),
    lossless_hot_recent_tokens=st.integers(0, 8),
    lossless_hot_sink_tokens=st.integers(0, 4),
    lossless_kept_sample_layers=st.integers(0, 2),
    lossless_kept_sample_token_interval=st.integers(0, 3),
    lossless_front_sample_token_interval=st.integers(0, 3),
    lossless_store_disable_front=st.booleans(),
    lossless_store_bootstrap_tokens=st.integers(1, 12),
    lossless_store_grouped_step_tokens=st.integers(3, 12),
    lossless_async_threads=st.integers(0, 2),
    lossless_max_queue=st.integers(1, 3),
    lossless_decode_cache_blocks=st.integers(0, 3),
    lossless_strict_roundtrip_check=st.booleans(),
)


def slow_kept_positions(events: list[tuple[F64, bool]], p: KvPolicy) -> list[int]:
    """The positions that one layer keeps, from its attention alone, recomputed in plain loops on lists.

    Gives the example up where scores lie so close that rounding decides.
    """
    tokens: list[tuple[int, float]] = []  # position, score
    seen, since_plan, planned = 0, 0, False
    for probs, decode in events:
        n_head, n_new, n_seq = probs.shape
        tokens += [(seen + i, 0.0) for i in range(n_new)]
        sums = probs.sum(axis=(0, 1)).tolist()
        weight = p.ema_alpha if decode else seen / (seen + n_new)
        current = [(1 - p.ema_alpha if decode else 1 / (seen + n_new)) * total / n_head for total in sums]
        tokens = [(position, weight * score + current[i]) for i, (position, score) in enumerate(tokens)]
        seen += n_new
        since_plan += decode
        if decode and seen >= p.trigger_min_tokens and (not planned or since_plan >= p.update_interval):
            planned, since_plan = True, 0
            tokens = slow_compaction(tokens, seen, n_seq, p)
    return [position for position, _ in tokens]


def slow_compaction(tokens: list[tuple[int, float]], seen: int, n_seq: int, p: KvPolicy) -> list[tuple[int, float]]:
    wanted = math.ceil(round(p.target_keep_ratio * n_seq, 6)) if p.target_mode == "static" else int(seen / p.target_lossy_ratio + 1e-9)
    blocks = [tokens[start : start + p.block_tokens] for start in range(0, n_seq, p.block_tokens)]
    numbered = [(index * p.block_tokens, block) for index, block in enumerate(blocks)]
    fixed = [start < p.sink_tokens or start + len(block) > n_seq - p.recent_tokens for start, block in numbered]
    kept = {position for keep, (_, block) in zip(fixed, numbered, strict=True) if keep for position, _ in block}
    free = [block for keep, (_, block) in zip(fixed, numbered, strict=True) if not keep]
    assume_apart([sum(score for _, score in block) for block in free])
    for block in sorted(free, key=lambda block: (-sum(score for _, score in block), -block[0][0])):
        best = sorted(block, key=lambda token: (-token[1], -token[0]))
        assume_apart([score for _, score in block])
        kept |= {position for position, _ in best[: max(0, wanted - len(kept))]}
    return [token for token in tokens if token[0] in kept]


def assume_apart(scores: list[float]) -> None:
    """Equal scores (never attended) are a tie for both; nearly equal ones are a matter of rounding."""
    gaps = np.diff(np.sort(scores))
    assume(not np.any((gaps > 0) & (gaps < 1e-7)))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    p=policies,
    turns=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 14), st.integers(0, 24)), min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
def test_keys_values_and_kept_tokens_equal_plain_lists_whatever_the_policy(
    p: KvPolicy, turns: list[tuple[int, int, int]], seed: int, driver: type[Driver], codecs: Codecs, kv_inventory: Inventory
) -> None:
    with KvCache(SHAPE, p, codec=codecs["zlib"]()) as cache:
        model = driver(cache, seed=seed)
        for first_chunk, second_chunk, n_decode in turns:
            for chunk in (first_chunk, second_chunk):
                if chunk:
                    model.feed(chunk, decode=False)
            model.feed(n_decode, decode=True)
            model.assert_exact()
            report = cache.finish()
            model.assert_exact()
            assert report.mismatch_blocks == 0
            assert set(report.fallback_reasons) <= {"expanded"}
            assert report.backpressure_skip == 0 or p.async_threads
            assert report.full_bytes == cache.n_seen * SHAPE.n_layer * SHAPE.bytes_per_token
            assert cache.finish().resident_bytes == kv_inventory(cache)
        for layer in range(SHAPE.n_layer):
            events = [(probs, decode) for seen_layer, probs, decode in model.seen_probs if seen_layer == layer]
            resolved = p.resolved(SHAPE.n_layer)
            expected = slow_kept_positions(events, resolved) if resolved.in_range(layer) else list(range(cache.n_seen))
            assert cache.positions(layer).tolist() == expected
            assert report.kept_tokens[layer] == len(expected)


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_two_runs_with_threads_and_one_without_keep_the_same_tokens(mode: str, driver: type[Driver]) -> None:
    kept = []
    for threads in (2, 2, 0):
        with KvCache(SHAPE, policy(lossless_runtime_mode=mode, lossless_async_threads=threads, lossless_max_queue=2)) as cache:
            model = driver(cache)
            model.feed(40, decode=False)
            model.feed(20, decode=True)
            cache.finish()
            model.assert_exact()
            kept.append([cache.positions(layer).tolist() for layer in range(SHAPE.n_layer)])
    assert kept[0] == kept[1] == kept[2]


def test_layers_plan_for_themselves_and_front_layers_keep_everything(driver: type[Driver]) -> None:
    with KvCache(SHAPE, policy()) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(1, decode=True)
        report = cache.finish()
        assert report.kept_tokens == (61, 30, 30)
        assert cache.positions(1).tolist() != cache.positions(2).tolist()


def test_a_budget_that_covers_the_context_changes_no_bit(driver: type[Driver]) -> None:
    images = []
    for p in (KvPolicy.from_values({}), policy(h2o_target_lossy_ratio=1.0, lossless_runtime_mode="store")):
        with KvCache(SHAPE, p) as cache:
            model = driver(cache)
            model.feed(30, decode=False)
            model.feed(12, decode=True)
            images.append([cache.words(layer, "k").tobytes() + cache.words(layer, "v").tobytes() for layer in range(SHAPE.n_layer)])
    assert images[0] == images[1]


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_the_columns_of_a_run_with_evictions_tell_what_happened(mode: str, driver: type[Driver]) -> None:
    with KvCache(SHAPE, policy(lossless_runtime_mode=mode, h2o_target_lossy_ratio=3.2, h2o_recent_tokens=4)) as cache:
        model = driver(cache)
        model.feed(99, decode=False)
        model.feed(1, decode=True)
        runs = [int(np.count_nonzero(np.diff(cache.positions(layer)) != 1)) + 1 for layer in (1, 2)]
        model.feed(2, decode=True)
        report = cache.finish()
    lossy = [100 * 128 / (31 * 128 + 8 * n) for n in runs]
    assert report.lossy_ratio == pytest.approx(sum(lossy) / 2)
    assert report.keep_ratio == pytest.approx(sum(1 / ratio for ratio in lossy) / 2)
    assert (report.target_keep, report.effective_keep, report.quantized_keep) == (0.31, 0.31, 0.31)
    assert report.floor_keep == pytest.approx(0.08)  # the sink's block of 4 and the recent block of 4, at 100 tokens
    assert report.evict_us > 0
    assert report.codec_us is not None
    assert report.comp_us > 0
    assert (report.decomp_us > 0) or mode == "store"
    assert (report.encoded_front_bytes or 0) > 0
    assert report.lossless_ratio == report.raw_bytes / report.comp_bytes
    assert report.coverage is not None
    assert (report.coverage == 1.0) == (mode != "probe")


def test_without_features_nothing_is_measured(driver: type[Driver], kv_inventory: Inventory) -> None:
    with KvCache(SHAPE, KvPolicy.from_values({"kv_h2o_layer_start": 1})) as cache:
        model = driver(cache)
        model.feed(40, decode=False)
        model.feed(5, decode=True)
        report = cache.finish()
        model.assert_exact()
        assert (report.keep_ratio, report.lossy_ratio, report.target_keep, report.lossless_ratio, report.coverage) == (None,) * 5
        assert (report.codec_us, report.raw_bytes, report.queue_peak, report.fallback) == (None, 0, 0, 0)
        assert report.full_bytes == 45 * 3 * 128
        assert report.range_full_bytes == 45 * 2 * 128
        assert report.full_bytes < report.resident_bytes == kv_inventory(cache) <= report.peak_bytes


def test_eviction_gives_memory_back(driver: type[Driver], kv_inventory: Inventory) -> None:
    shape = KvShape(n_layer=6, n_kv_head=2, head_dim=64)
    p = policy(h2o_target_lossy_ratio=4.0, h2o_trigger_min_tokens=400, lossless_enable=False)
    with KvCache(shape, p) as cache:
        model = driver(cache)
        model.feed(399, decode=False)
        before = cache.finish()
        model.feed(1, decode=True)
        after = cache.finish()
        assert after.kept_tokens == (400, 100, 100, 100, 100, 100)
        assert before.range_resident_bytes == before.range_full_bytes, "no spare rows are left"
        assert before.resident_bytes > before.full_bytes, "but where nothing is ever evicted they wait for the next turn"
        assert after.range_resident_bytes == 5 * 100 * shape.bytes_per_token
        assert after.resident_bytes == kv_inventory(cache) < before.resident_bytes / 2
        assert after.peak_bytes >= before.resident_bytes


def test_the_memory_that_python_traces_is_what_the_report_says(codecs: Codecs) -> None:
    shape = KvShape(n_layer=3, n_kv_head=8, head_dim=64)
    p = policy(
        lossless_runtime_mode="store",
        lossless_decode_cache_blocks=2,
        lossless_store_bootstrap_tokens=40,
        lossless_store_grouped_step_tokens=40,
        h2o_update_interval=8,
    )
    rows = np.random.default_rng(0).integers(-3, 4, (240, 8, 64)).astype(np.float32)

    def run(n_tokens: int) -> KvReport:
        for start in (0, *range(200, n_tokens)):
            n_new = 200 if start == 0 else 1
            for layer in range(3):
                new = rows[start : start + n_new]
                cache.attend(layer, new, new, new, decode=n_new == 1)
            if n_new == 1:
                cache.end_token()
        return cache.finish()

    with KvCache(shape, p, codec=codecs["zlib"]()) as cache:
        run(210)  # whatever is allocated once, somewhere else
    tracemalloc.start()
    try:
        with KvCache(shape, p, codec=codecs["zlib"]()) as cache:
            report = run(240)
            traced, traced_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.cache_hit > 0
    tables_and_objects = 3 * 2 * 240 * 25 + 40_000  # positions, scores, states, groups: 25 bytes for up to twice the tokens
    attention = 8 * 200 * 200 * 4 + 200 * 200 * 4 + 4 * 200 * 8 * 64 * 4  # probabilities, mask, queries and what they mix, with copies
    codec_work = 6 * 40 * 8 * 64 * 2
    assert report.resident_bytes < traced < report.resident_bytes + tables_and_objects
    assert report.peak_bytes < traced_peak < report.peak_bytes + tables_and_objects + attention + codec_work


def test_store_mode_packs_and_holds_less_than_raw(driver: type[Driver], kv_inventory: Inventory) -> None:
    resident = {}
    for mode in ("full", "store"):
        p = policy(lossless_runtime_mode=mode, h2o_enable=False, lossless_front_n=3, lossless_decode_cache_blocks=0)
        with KvCache(KvShape(3, 2, 64), p) as cache:
            model = driver(cache)
            model.feed(200, decode=False)
            model.feed(90, decode=True)
            report = cache.finish()
            model.assert_exact()
            assert report.fallback == 0
            assert report.cache_hit == 0
            assert (report.cache_miss > 0) == (mode == "store")
            resident[mode] = cache.finish().resident_bytes
            assert resident[mode] == kv_inventory(cache)
    assert resident["store"] < resident["full"] / 1.5


def test_decoded_copies_count_as_resident(driver: type[Driver], kv_inventory: Inventory) -> None:
    held = {}
    for blocks in (0, 4):
        p = policy(lossless_runtime_mode="store", h2o_enable=False, lossless_decode_cache_blocks=blocks)
        with KvCache(SHAPE, p) as cache:
            model = driver(cache)
            model.feed(50, decode=False)
            model.feed(10, decode=True)
            report = cache.finish()
            held[blocks] = report.resident_bytes
            assert report.resident_bytes == kv_inventory(cache)
            assert report.decomp_us > 0
            assert (report.cache_hit > 0) == (blocks > 0)
    assert held[4] - held[0] == (6 + 3 * 8) * SHAPE.bytes_per_token  # the first group has 6 tokens


def test_a_damaged_block_is_an_error_that_is_counted_and_logged(driver: type[Driver]) -> None:
    lines: list[str] = []
    with KvCache(SHAPE, policy(lossless_runtime_mode="store", lossless_decode_cache_blocks=0, h2o_enable=False), log=lines.append) as cache:
        model = driver(cache)
        model.feed(30, decode=False)
        model.feed(3, decode=True)
        cache.finish()
        packed = next(iter(cache._layers[0].packed.values()))
        good = packed.frames["k"]
        packed.frames["k"] = good[:-1] + bytes([good[-1] ^ 1])  # type: ignore[index]
        for _ in range(2):
            with pytest.raises(CodecError, match=r"kv store: layer 0 k tokens from 2: expected 27 exact tokens, got "):
                cache.words(0, "k")
        report = cache.finish()
        assert (report.fallback, report.mismatch_blocks, report.fallback_reasons) == (2, 2, {"decode": 2})
        assert "fallback=1 reason=decode" in lines[-1]
        packed.frames["k"] = packed.frames["v"]  # type: ignore[index]
        with pytest.raises(CodecError, match="frames were swapped"):
            cache.words(0, "k")


def test_a_damaged_block_stops_compaction_before_it_changes_anything(driver: type[Driver]) -> None:
    p = policy(lossless_runtime_mode="store", lossless_decode_cache_blocks=0, h2o_update_interval=4)
    with KvCache(SHAPE, p) as cache:
        model = driver(cache)
        model.feed(60, decode=False)
        model.feed(4, decode=True)
        cache.finish()
        kv = cache._layers[1]
        assert kv.packed
        before = (kv.n_tokens, kv.positions.tolist(), kv.states.tolist(), cache._ledger.resident_bytes)
        for packed in kv.packed.values():
            packed.frames["v"] = packed.frames["v"][:-1]  # type: ignore[index]
        with pytest.raises(CodecError):
            kv.compact(np.arange(kv.n_tokens)[::2], 0, cache._store.read_group)
        assert (kv.n_tokens, kv.positions.tolist(), kv.states.tolist(), cache._ledger.resident_bytes) == before


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (
            np.zeros((1, 2, 8)),
            np.zeros((1, 2, 16)),
            r"kv layer 1: keys and values: expected \(1, 2, 16\), got \(1, 2, 8\) and \(1, 2, 16\)",
        ),
        (np.zeros((1, 2, 16)), np.zeros((2, 2, 16)), "kv layer 1: keys and values"),
        (np.full((1, 2, 16), np.nan), np.zeros((1, 2, 16)), "kv layer 1: keys: expected finite"),
        (np.zeros((1, 2, 16)), np.full((1, 2, 16), 1e9), "kv layer 1: values: expected finite"),
    ],
)
@pytest.mark.parametrize("decode", [False, True])
def test_what_a_model_must_not_pass_is_refused(keys: Any, values: Any, message: str, decode: bool) -> None:
    with KvCache(SHAPE, KvPolicy.from_values({})) as cache, pytest.raises(EngineError, match=message):
        cache.attend(1, np.zeros((1, 4, 16), dtype=np.float32), keys.astype(np.float32), values.astype(np.float32), decode)


@pytest.mark.parametrize(
    ("queries", "decode", "message"),
    [
        (np.zeros((1, 3, 16)), False, r"kv layer 2: queries: expected tokens with a multiple of 2 heads of 16, got \(1, 3, 16\)"),
        (np.zeros((1, 4, 8)), True, "kv layer 2: queries: expected 1 token with a multiple of 2 heads of 16"),
        (np.zeros((2, 4, 16)), True, "kv layer 2: queries: expected 1 token"),
        (np.full((1, 4, 16), np.nan), True, "kv layer 2: attention: expected finite scores"),
        (np.full((1, 4, 16), np.nan), False, "kv layer 2: attention: expected finite scores"),
        (np.full((1, 4, 16), np.inf), True, "kv layer 2: attention: expected finite scores"),
    ],
)
def test_queries_that_give_no_attention_are_refused(queries: Any, decode: bool, message: str) -> None:
    rows = np.ones((len(queries), 2, 16), dtype=np.float32)
    with KvCache(SHAPE, policy()) as cache, pytest.raises(EngineError, match=message):
        cache.attend(2, queries.astype(np.float32), rows, rows, decode)


@pytest.mark.parametrize("selection", ["heavy", "random", "window"])
def test_a_fork_goes_on_as_a_cache_that_saw_the_prompt_itself(selection: Selection, driver: type[Driver], kv_inventory: Inventory) -> None:
    other = replace(policy(h2o_target_lossy_ratio=3.0), selection=selection)
    with KvCache(SHAPE, policy()) as cache, KvCache(SHAPE, other) as alone:
        model, lone_model = driver(cache), driver(alone)
        for each in (model, lone_model):
            each.feed(50, decode=False)
        with cache.fork(other) as twin:
            model.cache = twin
            for each in (model, lone_model):
                each.feed(9, decode=True)
                each.assert_exact()
            for layer in range(SHAPE.n_layer):
                assert twin.positions(layer).tolist() == alone.positions(layer).tolist()
            assert twin.finish().kept_tokens == alone.finish().kept_tokens == (59, 21, 21)  # 57 / 3, and two tokens since
            assert twin.finish().resident_bytes == kv_inventory(twin)
            with pytest.raises(EngineError, match="kv cache: fork: expected a cache that has seen prompts only"):
                twin.fork(other)
        assert cache.positions(1).tolist() == list(range(50))  # untouched


def test_the_window_control_keeps_the_sink_and_the_newest(driver: type[Driver]) -> None:
    with KvCache(SHAPE, replace(policy(h2o_target_lossy_ratio=3.0), selection="window")) as cache:
        model = driver(cache)
        model.feed(59, decode=False)
        model.feed(1, decode=True)
        assert cache.positions(1).tolist() == [0, 1, 2, 3, *range(44, 60)]


@pytest.mark.parametrize("codec", RUNTIME_CODECS)
def test_bf16_words_are_kept_and_packed(driver: type[Driver], codec: str) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 2, 16)).astype(np.float32)
    expected = (rows.view(np.uint32) + 0x7FFF + ((rows.view(np.uint32) >> 16) & 1)) >> 16
    p = policy(lossless_runtime_mode="store", lossless_strict_roundtrip_check=True, lossless_codec_runtime=codec)
    with KvCache(replace(SHAPE, dtype="bf16"), p) as cache:
        for start, stop in ((0, 40), *((at, at + 1) for at in range(40, 60))):
            for layer in range(SHAPE.n_layer):
                new = rows[start:stop]
                cache.attend(layer, np.concatenate((new, new), axis=1), new, new, decode=stop - start == 1)
            if stop - start == 1:
                cache.end_token()
        report = cache.finish()
        assert any(kv.packed for kv in cache._layers)
        assert report.mismatch_blocks == 0
        for layer in range(SHAPE.n_layer):
            for part in PARTS:
                assert np.array_equal(cache.words(layer, part), expected[cache.positions(layer)])


def test_the_codec_word_decides_what_packs_and_what_the_log_says_of_it() -> None:
    rows = np.cumsum(np.random.default_rng(1).standard_normal((60, 2, 64)) / 8, axis=0).astype(np.float32)
    packed_bytes, lines = {}, {}
    for codec in RUNTIME_CODECS:
        logged: list[str] = []
        p = policy(h2o_enable=False, lossless_front_n=3, lossless_block_tokens=32, lossless_codec_runtime=codec)
        with KvCache(KvShape(3, 2, 64), p, logged.append) as cache:
            for layer in range(3):
                cache.attend(layer, np.concatenate((rows, rows), axis=1), rows, rows, decode=False)
            packed_bytes[codec] = cache.finish().comp_bytes
        lines[codec] = [line.split("zstd=")[1] for line in logged if "zstd=" in line]
    assert 0 < packed_bytes["kv_fast"] < packed_bytes["fp16_gear_predictive_v3"]
    assert set(lines["kv_fast"]) == {"0"}
    assert set(lines["fp16_gear_predictive_v3"]) == {"1"}


def test_layers_out_of_the_model_are_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="kv_h2o_layer_start"):
        KvCache(SHAPE, policy(h2o_layer_start=3))


def test_the_log_has_one_line_a_plan_and_names_a_floor_above_the_target(driver: type[Driver]) -> None:
    lines: list[str] = []
    with KvCache(SHAPE, policy(lossless_enable=False, h2o_target_lossy_ratio=10.0), log=lines.append) as cache:
        model = driver(cache)
        model.feed(39, decode=False)
        model.feed(1, decode=True)
    assert [line.split(" evict_us=")[0] for line in lines] == [
        f"[H2O] layer={layer} kv=40 keep_ratio={(12 * 128 + 16) / (40 * 128):.4f} evict=28 lossy_ratio={40 * 128 / (12 * 128 + 16):.3f}"
        for layer in (1, 2)
    ]
    assert lines[0].endswith(
        "reserve_pairs=2 target=0.1000 effective=0.3000 floor=0.3000 quantized=0.3000 recent=6 sink=2 block=4 floor_limited=1"
    )


def test_nothing_is_logged_unless_the_policy_logs(driver: type[Driver]) -> None:
    lines: list[str] = []
    with KvCache(SHAPE, policy(h2o_log_stats=False), log=lines.append) as cache:
        model = driver(cache)
        model.feed(30, decode=False)
        model.feed(9, decode=True)
        assert cache.finish().raw_bytes > 0
    assert lines == []
