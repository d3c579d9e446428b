"""What holds bit for bit, whatever is drawn: no eviction means no difference, packing changes nothing, threads and failures are seen."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.model import decode_one_token, prefill

from .drawn_runs import SLOW, U16, Run, ShelfCodec, TinyModel, runs
from .oracle import Part


def logits_of(run: Run, tiny: TinyModel, policy: KvPolicy) -> tuple[bytes, tuple[tuple[int, ...], ...]]:
    """All logits of the run as bits, and the positions kept in the end; finishes after each turn where the run does."""
    found: list[bytes] = []
    with KvCache(tiny.kv_shape(run.dtype), policy, codec=ShelfCodec() if run.tiny_frames else None) as cache:
        for prompt, n_decode in run.turns:
            logits = prefill(tiny.model, prompt, cache)
            found.append(logits.tobytes())
            for _ in range(n_decode):
                logits = decode_one_token(tiny.model, int(logits.argmax()), cache)
                found.append(logits.tobytes())
            if run.finishes_each_turn:
                cache.finish()
        return b"".join(found), tuple(tuple(cache.positions(layer).tolist()) for layer in range(cache.shape.n_layer))


@given(run=runs(h2o_enable=True), budget=st.sampled_from(["recent tokens", "sink tokens", "static ratio", "adaptive ratio"]))
@settings(SLOW, max_examples=40)
def test_a_budget_that_covers_the_context_gives_the_plain_caches_logits(run: Run, budget: str, models: tuple[TinyModel, ...]) -> None:
    covering: dict[str, dict[str, Any]] = {
        "recent tokens": {"recent_tokens": 200},
        "sink tokens": {"sink_tokens": 200},
        "static ratio": {"target_mode": "static", "target_keep_ratio": 1.0},
        "adaptive ratio": {"target_mode": "adaptive", "target_lossy_ratio": 1.0},
    }
    plain = run.policy(h2o_enable=False, lossless=False)
    assert logits_of(run, models[run.model], run.policy(**covering[budget])) == logits_of(run, models[run.model], plain)


@given(run=runs(lossless_enable=True), mode=st.sampled_from(["store", "full", "probe"]))
@settings(SLOW, max_examples=60)
def test_the_lossless_store_changes_no_bit(run: Run, mode: Literal["probe", "full", "store"], models: tuple[TinyModel, ...]) -> None:
    encoding = run.policy(mode=mode, kept_sample_layers=0)
    assert logits_of(run, models[run.model], encoding) == logits_of(run, models[run.model], replace(encoding, lossless=False))


@given(run=runs(), other=runs())
@settings(SLOW, max_examples=40)
def test_a_fork_decodes_as_a_cache_that_had_the_policy_from_the_start(run: Run, other: Run, models: tuple[TinyModel, ...]) -> None:
    """For policies that score the same layers in the same way: only that is settled by the prompt."""
    tiny, (prompt, _), n_decode = models[run.model], run.turns[0], 12
    first = run.policy()
    kept = {name: getattr(first, name) for name in ("h2o_enable", "layer_start", "layer_end", "score", "score_near_tokens", "front_n")}
    second = replace(other.policy(), **kept)
    with KvCache(tiny.kv_shape(run.dtype), first) as cache:
        first_logits = prefill(tiny.model, prompt, cache)
        with cache.fork(second) as fork, KvCache(tiny.kv_shape(run.dtype), second) as fresh:
            logits = fresh_logits = prefill(tiny.model, prompt, fresh)
            assert np.array_equal(first_logits, fresh_logits)
            for _ in range(n_decode):
                token = int(logits.argmax())
                logits, fresh_logits = decode_one_token(tiny.model, token, fork), decode_one_token(tiny.model, token, fresh)
                assert np.array_equal(logits, fresh_logits)
            assert fork.finish().kept_tokens == fresh.finish().kept_tokens
        assert cache.n_seen == len(prompt)


ALL_COLD = KvPolicy.from_values(
    {
        "kv_lossless_enable": True, "kv_lossless_runtime_enable": True, "kv_lossless_codec": "gear_delta", "kv_lossless_front_n": 1,
        "kv_lossless_runtime_mode": "full", "kv_lossless_hot_sink_tokens": 0, "kv_lossless_hot_recent_tokens": 0,
        "kv_lossless_block_tokens": 4, "kv_lossless_store_bootstrap_tokens": 4, "kv_lossless_store_grouped_step_tokens": 4,
    }
)  # fmt: skip
"""H2O off; one layer whose tokens are all cold, in groups of 4."""
N_PROMPT, N_DECODE = 16, 8
N_GROUPS = (N_PROMPT + N_DECODE) // 4


def decode_some(tiny: TinyModel, cache: KvCache) -> None:
    prefill(tiny.model, list(range(N_PROMPT)), cache)
    for token in range(N_DECODE):
        decode_one_token(tiny.model, token, cache)


@pytest.fixture
def wide(models: tuple[TinyModel, ...]) -> TinyModel:
    """A model whose groups of 4 are larger than the frames of a `ShelfCodec`."""
    return models[3]


class FailingCodec(ShelfCodec):
    """Fails in one way at every call; ``expanded``: encodes more bytes than there were, ``lies``: decodes to other words."""

    def __init__(self, how: str, error: Exception | None = None) -> None:
        super().__init__()
        self._how, self._error = how, error

    def encode(self, tensor: U16, part: Part) -> bytes:
        if self._how == "encode":
            assert self._error is not None
            raise self._error
        return super().encode(tensor, part) + bytes(tensor.nbytes if self._how == "expanded" else 0)

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        if self._how == "decode":
            assert self._error is not None
            raise self._error
        words = super().decode(payload, shape, part)
        if self._how == "lies":
            words.flat[-1] ^= 1
        return words


@pytest.mark.parametrize("async_threads", [0, 1, 3])
@pytest.mark.parametrize(
    ("how", "reason", "mismatch_blocks"),
    [
        ("encode", "encode", 0),
        ("decode", "decode", N_GROUPS),
        ("lies", "decode", N_GROUPS),
        ("lies unnoticed", "mismatch", N_GROUPS),
        ("expanded", "expanded", 0),
    ],
)
def test_failures_are_counted_by_reason_and_the_words_stay(
    how: str, reason: str, mismatch_blocks: int, async_threads: int, wide: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "lies unnoticed":  # two tensors of one XXH3-64 cannot be made, so all tensors get the same
        monkeypatch.setattr("h2o_gate_plugin.kv.frame.xxh3_64_intdigest", lambda _: 0)
    codec = FailingCodec(how.split()[0], CodecError("test codec: broken"))
    with (
        KvCache(wide.kv_shape("fp16"), replace(ALL_COLD, async_threads=async_threads), codec=codec) as cache,
        KvCache(wide.kv_shape("fp16"), replace(ALL_COLD, lossless=False)) as plain,
    ):
        decode_some(wide, cache)
        decode_some(wide, plain)
        report = cache.finish()
        assert np.array_equal(cache.words(0, "k"), plain.words(0, "k"))
    assert report.fallback_reasons == {reason: N_GROUPS}
    assert (report.fallback, report.mismatch_blocks, report.coverage) == (N_GROUPS, mismatch_blocks, 0.0)


@pytest.mark.parametrize("async_threads", [0, 2])
@pytest.mark.parametrize("how", ["encode", "decode"])
def test_an_error_that_is_no_codec_error_reaches_the_caller_and_no_thread_is_left(how: str, async_threads: int, wide: TinyModel) -> None:
    before = set(threading.enumerate())
    policy = replace(ALL_COLD, async_threads=async_threads)

    def run() -> None:
        with KvCache(wide.kv_shape("fp16"), policy, codec=FailingCodec(how, ZeroDivisionError("a defect"))) as cache:
            decode_some(wide, cache)
            cache.finish()

    with pytest.raises(ZeroDivisionError, match="a defect"):
        run()
    assert set(threading.enumerate()) <= before


def test_a_stored_frame_that_does_not_decode_ends_the_run_and_is_counted(wide: TinyModel) -> None:
    codec = FailingCodec("decode", CodecError("test codec: broken"))
    with KvCache(wide.kv_shape("fp16"), replace(ALL_COLD, mode="store", async_threads=0), codec=codec) as cache:
        with pytest.raises(CodecError, match="broken"):
            decode_some(wide, cache)
        assert cache.finish().fallback_reasons["decode"] >= 1


@given(run=runs(lossless_enable=True))
@settings(SLOW, max_examples=20)
def test_no_thread_outlives_finish_or_close(run: Run, models: tuple[TinyModel, ...]) -> None:
    tiny, before = models[run.model], set(threading.enumerate())
    policy = run.policy(async_threads=max(1, int(run.keys["kv_lossless_async_threads"])))
    with KvCache(tiny.kv_shape(run.dtype), policy) as cache:
        for prompt, n_decode in run.turns:
            prefill(tiny.model, prompt, cache)
            for token in range(min(n_decode, 16)):
                decode_one_token(tiny.model, token, cache)
            if run.finishes_each_turn:
                cache.finish()
                assert set(threading.enumerate()) <= before
    assert set(threading.enumerate()) <= before


class BlockedCodec(ShelfCodec):
    """Encodes nothing until it is released: the slowest codec there is."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def encode(self, tensor: U16, part: Part) -> bytes:
        assert self.released.wait(timeout=30), "the test never released the codec"
        return super().encode(tensor, part)


@pytest.mark.parametrize("mode", ["full", "store"])
def test_a_full_queue_is_counted_and_the_refused_groups_are_tried_again(mode: Literal["full", "store"], wide: TinyModel) -> None:
    codec = BlockedCodec()
    with KvCache(wide.kv_shape("fp16"), replace(ALL_COLD, mode=mode, async_threads=1, max_queue=1), codec=codec) as cache:
        decode_some(wide, cache)
        codec.released.set()
        report = cache.finish()
    assert report.backpressure_skip == N_DECODE - 1  # the first decoded token brought the group that blocks
    assert (report.queue_peak, report.async_queue_peak) == (1, 1)
    assert (report.coverage, report.fallback) == (1.0, 0)


@pytest.mark.parametrize(("interval", "n_groups"), [(0, 6), (1, 6), (2, 4), (3, 2)])
def test_at_most_one_group_is_encoded_at_every_so_many_th_decoded_token(interval: int, n_groups: int, wide: TinyModel) -> None:
    policy = replace(ALL_COLD, mode="probe", front_sample_interval=interval, async_threads=0)
    with KvCache(wide.kv_shape("fp16"), policy, codec=ShelfCodec()) as cache:
        decode_some(wide, cache)
        report = cache.finish()
    assert report.encoded_front_bytes == n_groups * 4 * cache.shape.bytes_per_token


def test_cold_tokens_are_encoded_from_the_oldest_on_in_groups_of_the_stated_sizes(wide: TinyModel) -> None:
    lines: list[str] = []
    policy = replace(ALL_COLD, bootstrap_tokens=3, group_tokens=5, log_stats=True, async_threads=0)
    with KvCache(wide.kv_shape("fp16"), policy, log=lines.append, codec=ShelfCodec()) as cache:
        decode_some(wide, cache)
        cache.finish()
    groups = starts_and_sizes(lines)
    assert [size for _, size in groups][:2] == [3, 5]
    assert groups[0][0] == 0
    full = [(start, size) for start, size in groups if size in (3, 5)]
    assert all(start + size == after for (start, size), (after, _) in pairwise(full))


def starts_and_sizes(lines: Sequence[str]) -> list[tuple[int, int]]:
    fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if line.startswith("[H2O-LOSSLESS]")]
    return [(int(line["start"]), int(line["tokens"])) for line in fields]
