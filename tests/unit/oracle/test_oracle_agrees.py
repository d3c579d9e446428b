"""The engine against the oracle, over random models, prompts and policies."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.kv.cache import PROMPT_STEP_TOKENS, KvCache
from h2o_gate_plugin.kv.frame import HEADER_BYTES
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvShape
from h2o_gate_plugin.kv_options import suite_values
from h2o_gate_plugin.runtime.model import decode_one_token, prefill

from .drawn_runs import F32, SLOW, RecordingCache, Run, ShelfCodec, TinyModel, runs, to_numbers
from .oracle import F64, Oracle, Part

LOGIT_TOLERANCE = 2e-5
"""Share of the largest logit. K and V are the same words in both, so only float32 arithmetic lies between; 8e-6 was seen."""
LEAST_MARGIN = 1e-5
"""A plan or an argmax that the oracle decides by less (share of the score, or of the largest logit) is float32's to decide."""
MOST_TIES = 0.01
"""Share of K and V words that may lie so near to a tie that float32 rounds them the other way; 0.002 was seen."""
PARTS: tuple[Part, Part] = ("k", "v")


@dataclass
class Played:
    """A run that engine and oracle went through side by side.

    ``once_cold``: positions that may have been encoded, per layer. ``flushed_from``: how many tokens were cold in each layer that is
    encoded, at each finish.
    """

    run: Run
    shape: KvShape
    codec: ShelfCodec | None
    recorded: RecordingCache
    oracle: Oracle
    once_cold: list[set[int]]
    flushed_from: list[int]

    def note_cold(self) -> None:
        for layer, is_encoded in self.oracle.scope().items():
            self.once_cold[layer].update(self.oracle.cold(layer) if is_encoded else ())

    def finish(self) -> KvReport:
        self.note_cold()
        self.flushed_from += [len(self.oracle.cold(layer)) for layer, is_encoded in self.oracle.scope().items() if is_encoded]
        return self.recorded.cache.finish()


def play_and_check(run: Run, models: tuple[TinyModel, ...]) -> None:
    """Run engine and oracle greedily, compare them at every token, and the report in the end."""
    tiny = models[run.model]
    shape, codec = tiny.kv_shape(run.dtype), ShelfCodec() if run.tiny_frames else None
    with (
        patch("h2o_gate_plugin.runtime.model.PREFILL_CHUNK_TOKENS", run.chunk_tokens),
        patch("h2o_gate_plugin.kv.cache.PROMPT_STEP_TOKENS", run.step_tokens),
        KvCache(shape, run.policy(), codec=codec) as cache,
    ):
        recorded = RecordingCache(cache)
        oracle = Oracle(tiny.llama, run.keys, run.dtype, run.selection, recorded.rounded_as_given)
        played = Played(run, shape, codec, recorded, oracle, [set() for _ in range(shape.n_layer)], [])
        for prompt, n_decode in run.turns:
            logits = prefill(tiny.model, prompt, recorded)
            expected = oracle.prefill(prompt)
            check_step(logits, expected, recorded, oracle, reads_words=True)
            for _ in range(n_decode):
                token = int(logits.argmax())
                logits = decode_one_token(tiny.model, token, recorded)
                expected = oracle.decode(token)
                played.note_cold()
                check_step(logits, expected, recorded, oracle, run.reads_words_each_token)
            if run.finishes_each_turn:
                played.finish()
        report = played.finish()
        check_step(logits, expected, recorded, oracle, reads_words=True)
    check_report(played, report)


def check_step(logits: F32, expected: F64, recorded: RecordingCache, oracle: Oracle, reads_words: bool) -> None:
    second, first = np.sort(expected)[-2:]
    scale = float(np.abs(expected).max())
    assume(oracle.smallest_margin > LEAST_MARGIN and first - second > LEAST_MARGIN * scale)
    for layer in range(oracle.n_layer):
        assert recorded.cache.positions(layer).tolist() == oracle.layers[layer].positions, f"layer {layer}"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE * scale)
    assert int(logits.argmax()) == int(expected.argmax())
    for layer in range(oracle.n_layer) if reads_words else ():
        for part in PARTS:
            words = recorded.cache.words(layer, part)
            assert np.array_equal(words, recorded.words(layer, part)), f"layer {layer} {part}: not the words that were given"
            numbers = to_numbers(words, recorded.cache.shape.dtype)
            assert np.array_equal(numbers, oracle.words(layer, part)), f"layer {layer} {part}: not the oracle's numbers"


def check_report(played: Played, report: KvReport) -> None:
    shape, oracle = played.shape, played.oracle
    assert report.kept_tokens == tuple(len(layer.positions) for layer in oracle.layers)
    figures = oracle.plan_figures(shape.bytes_per_token)
    for name in ("lossy_ratio", "keep_ratio", "target_keep", "effective_keep", "floor_keep", "quantized_keep"):
        assert getattr(report, name) == (None if figures is None else pytest.approx(figures[name], rel=1e-12)), name
    assert report.full_bytes == shape.n_layer * oracle.n_seen * shape.bytes_per_token
    if played.run.keys["kv_h2o_enable"]:
        assert report.range_full_bytes == len(oracle.h2o_layers) * oracle.n_seen * shape.bytes_per_token
    assert report.mismatch_blocks == 0
    assert report.fallback == sum(report.fallback_reasons.values())
    assert played.recorded.n_differently_rounded <= MOST_TIES * played.recorded.n_words + 4
    check_coverage(played, report)
    if played.codec is not None:
        check_encoded_tokens(played, played.codec)


def check_coverage(played: Played, report: KvReport) -> None:
    """full and store: every cold token of the layers that are encoded, unless a frame was no smaller than its group; probe: samples,
    at most a group per decoded token."""
    run, keys, bytes_per_token = played.run, played.run.keys, played.shape.bytes_per_token
    scope, mode = played.oracle.scope(), keys["kv_lossless_runtime_mode"]
    encoded = [len(played.oracle.cold(layer)) for layer, is_encoded in scope.items() if is_encoded]
    n_cold = sum(len(played.oracle.cold(layer)) for layer in scope)
    later = "store_grouped_step" if mode == "store" else "block"
    groups = (keys["kv_lossless_store_bootstrap_tokens"], keys[f"kv_lossless_{later}_tokens"])
    assert set(report.fallback_reasons) <= {"expanded"}
    if run.tiny_frames and all(n == 0 or n * bytes_per_token > 2 * (HEADER_BYTES + 8) for n in (*groups, *played.flushed_from)):
        assert report.fallback == 0
    if mode == "probe":
        n_decoded = sum(n for _, n in run.turns)
        assert (report.encoded_front_bytes or 0) + (report.encoded_kept_bytes or 0) <= n_decoded * max(groups) * bytes_per_token
        for part, encoded_bytes in (("front", report.encoded_front_bytes), ("kept", report.encoded_kept_bytes)):
            n_turns = n_decoded // max(1, keys[f"kv_lossless_{part}_sample_token_interval"])
            assert (encoded_bytes or 0) <= n_turns * max(groups) * bytes_per_token, part
    if not n_cold:
        assert report.coverage is None
        return
    assert report.coverage is not None
    assert report.coverage <= sum(encoded) / n_cold
    if not report.fallback:
        assert report.coverage >= (0 if mode == "probe" else sum(encoded) / n_cold)


def check_encoded_tokens(played: Played, codec: ShelfCodec) -> None:
    """Which tokens the codec was given: none that was never cold in scope, and in full mode all that are cold in the end."""
    key_rows, scope = codec.key_rows(), played.oracle.scope()
    for layer in range(played.shape.n_layer):
        encoded = played.recorded.positions_of(layer, key_rows)
        assert encoded <= played.once_cold[layer], f"layer {layer}"
        if played.run.keys["kv_lossless_runtime_mode"] == "full" and scope.get(layer):
            assert encoded >= set(played.oracle.cold(layer)), f"layer {layer}"


@given(run=runs(lossless_enable=False))
@settings(SLOW, max_examples=60)
def test_without_the_lossless_store(run: Run, models: tuple[TinyModel, ...]) -> None:
    play_and_check(run, models)


@given(run=runs(lossless_runtime_mode="probe"))
@settings(SLOW, max_examples=25)
def test_in_probe_mode(run: Run, models: tuple[TinyModel, ...]) -> None:
    play_and_check(run, models)


@given(run=runs(lossless_runtime_mode="full"))
@settings(SLOW, max_examples=60)
def test_in_full_mode(run: Run, models: tuple[TinyModel, ...]) -> None:
    play_and_check(run, models)


@given(run=runs(lossless_runtime_mode="store"))
@settings(SLOW, max_examples=60)
def test_in_store_mode(run: Run, models: tuple[TinyModel, ...]) -> None:
    play_and_check(run, models)


NEAR_REACHES_PAST_RECENT = {
    "h2o_enable": True, "h2o_score_near_tokens": 12, "h2o_recent_tokens": 2, "h2o_trigger_min_tokens": 1, "h2o_ema_alpha": 0.3,
    "h2o_target_mode": "adaptive", "h2o_target_lossy_ratio": 2.0, "lossless_enable": False,
}  # fmt: skip


@given(run=runs(**NEAR_REACHES_PAST_RECENT))
@settings(SLOW, max_examples=20)
def test_tokens_are_near_by_their_positions_where_some_between_are_evicted(run: Run, models: tuple[TinyModel, ...]) -> None:
    play_and_check(run, models)


@given(mode=st.sampled_from(["full", "store"]))
@settings(SLOW, max_examples=4)
def test_with_the_suites_keys_and_a_prompt_longer_than_a_step(mode: str, models: tuple[TinyModel, ...]) -> None:
    keys = suite_values({"kv_lossless_runtime_mode": mode, "kv_h2o_layer_start": 1, "kv_h2o_trigger_min_tokens": 280}, "oracle test")
    ids = np.random.default_rng(5).integers(0, 29, 360).tolist()
    turns = ((tuple(ids[:300]), 20), (tuple(ids[300:]), 18))
    play_and_check(Run(1, "fp16", "heavy", keys, turns, 256, PROMPT_STEP_TOKENS, True, True, False), models)
