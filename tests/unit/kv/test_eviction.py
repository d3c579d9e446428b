"""Scores, plans and what they refuse; the plan against a slow one in plain loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.kv.eviction import control_scores, decay_scores, near_count, plan_keep, run_count, seeded_scores
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import KvValue

F64 = npt.NDArray[np.float64]
SUITE: dict[str, KvValue] = {
    "kv_h2o_block_tokens": 32,
    "kv_h2o_sink_tokens": 16,
    "kv_h2o_recent_tokens": 96,
    "kv_h2o_target_lossy_ratio": 3.2,
}


MEAN = KvPolicy.from_values({})
NEAR_2 = KvPolicy.from_values({"kv_h2o_score_near_tokens": 2})
SQUARE_NEAR_2 = KvPolicy.from_values({"kv_h2o_score_near_tokens": 2, "kv_h2o_score": "mean_square"})


def softmax_like(random: np.random.Generator, n_head: int, n_query: int, n_seq: int) -> npt.NDArray[np.float32]:
    weights = random.random((n_head, n_query, n_seq))
    probs: npt.NDArray[np.float32] = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    return probs


def slow_plan(scores: list[float], seen: int, policy: KvPolicy) -> list[int]:
    n, size = len(scores), policy.block_tokens
    blocks = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
    kept = [block for block in blocks if block[0] < policy.sink_tokens or block[-1] >= n - policy.recent_tokens]
    room = policy.wanted_tokens(n, seen) - sum(len(block) for block in kept)
    others = sorted((block for block in blocks if block not in kept), key=lambda block: (-sum(scores[i] for i in block), -block[0]))
    indices = [index for block in kept for index in block]
    for block in others:
        best = sorted(block, key=lambda index: (-scores[index], -index))
        indices += best[: max(0, room)]
        room -= len(block)
    return sorted(indices)


@pytest.mark.parametrize(("kv", "floor", "kept"), [(513, 129, 160), (1025, 129, 320)])
def test_the_first_plan_keeps_what_the_semantics_say(kv: int, floor: int, kept: int) -> None:
    plan = plan_keep(np.random.default_rng(1).random(kv), kv, KvPolicy.from_values(SUITE))
    assert (plan.floor_tokens, plan.kept_tokens, plan.wanted_tokens) == (floor, kept, kept)


@settings(max_examples=50)
@given(
    scores=st.lists(st.integers(0, 6), min_size=1, max_size=70),
    extra=st.integers(0, 200),
    block=st.integers(1, 9),
    sink=st.integers(0, 20),
    recent=st.integers(1, 30),
    ratio=st.sampled_from([1.0, 1.5, 3.2, 9.0]),
    static=st.booleans(),
)
def test_a_plan_equals_one_made_by_plain_loops(
    scores: list[int], extra: int, block: int, sink: int, recent: int, ratio: float, static: bool
) -> None:
    values: dict[str, KvValue] = {
        "kv_h2o_block_tokens": block,
        "kv_h2o_sink_tokens": sink,
        "kv_h2o_recent_tokens": recent,
        "kv_h2o_target_mode": "static" if static else "adaptive",
        "kv_h2o_target_lossy_ratio": ratio,
        "kv_h2o_target_keep_ratio": round(1 / ratio, 3),
    }
    policy = KvPolicy.from_values(values)
    plan = plan_keep(np.array(scores, dtype=np.float64), len(scores) + extra, policy)
    assert plan.kept.tolist() == slow_plan([float(score) for score in scores], len(scores) + extra, policy)
    assert plan.kept_tokens == max(plan.floor_tokens, min(plan.wanted_tokens, len(scores)))


def test_equal_scores_keep_the_newer_block_and_within_it_the_newer_tokens() -> None:
    values: dict[str, KvValue] = {
        "kv_h2o_block_tokens": 4,
        "kv_h2o_sink_tokens": 0,
        "kv_h2o_recent_tokens": 1,
        "kv_h2o_target_lossy_ratio": 2.0,
    }
    plan = plan_keep(np.zeros(20), 20, KvPolicy.from_values(values))
    assert plan.kept.tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_a_planted_heavy_hitter_block_ranks_first() -> None:
    random = np.random.default_rng(3)
    probs = softmax_like(random, 4, 1, 513)[:, 0] * np.float32(0.5)
    probs[:, 200:208] += np.float32(0.5 / 8)
    scores = np.zeros(513)
    for _ in range(20):
        decay_scores(scores, probs, 0.9, False, 0)
    plan = plan_keep(scores, 513, KvPolicy.from_values(SUITE | {"kv_h2o_target_lossy_ratio": 3.74}))
    assert plan.kept_tokens == 137
    assert plan.kept[32:40].tolist() == list(range(200, 208))  # between the sink's block and the recent ones


def test_prompt_chunks_seed_the_same_column_means_as_the_whole_prompt() -> None:
    random = np.random.default_rng(4)
    probs = softmax_like(random, 3, 10, 10)
    whole = seeded_scores(np.zeros(10), probs, np.arange(10), 0, MEAN)
    first = seeded_scores(np.zeros(10), np.ascontiguousarray(probs[:, :4]), np.arange(10), 0, MEAN)
    both = seeded_scores(first, np.ascontiguousarray(probs[:, 4:]), np.arange(10), 4, MEAN)
    assert np.allclose(both, whole, rtol=0, atol=1e-6)
    assert np.allclose(whole, probs.astype(np.float64).mean(axis=(0, 1)), rtol=0, atol=1e-6)
    assert whole.sum() == pytest.approx(1.0, abs=1e-6)


def test_scores_keep_summing_to_one_over_decode_and_a_second_prompt() -> None:
    random = np.random.default_rng(5)
    scores: F64 = seeded_scores(np.zeros(6), softmax_like(random, 2, 6, 6), np.arange(6), 0, MEAN)
    for _ in range(5):
        scores = np.append(scores, 0.0)
        decay_scores(scores, softmax_like(random, 2, 1, len(scores))[:, 0], 0.9, False, 0)
    scores = seeded_scores(np.append(scores, np.zeros(4)), softmax_like(random, 2, 4, len(scores) + 4), np.arange(15), 11, MEAN)
    assert scores.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_decode_step_is_the_moving_average_of_the_mean_over_heads() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], dtype=np.float32)
    scores = np.array([1.0, 0.0, 0.0])
    decay_scores(scores, probs, 0.9, False, 0)
    assert scores.tolist() == pytest.approx([0.925, 0.0625, 0.0125])


def test_attention_to_near_tokens_is_left_out_of_seeds_and_updates() -> None:
    random = np.random.default_rng(6)
    positions = np.array([0, 1, 5, 6, 7, 8], dtype=np.int64)  # 2 to 4 were evicted; 6, 7 and 8 are the queries
    probs = softmax_like(random, 2, 3, 6)
    expected = np.zeros(6)
    for head in range(2):
        for row, query in enumerate((6, 7, 8)):
            for column, position in enumerate(positions):
                if query - position >= 2:
                    expected[column] += probs[head, row, column] / 2
    assert np.allclose(seeded_scores(np.zeros(6), probs.copy(), positions, 6, NEAR_2), expected / 9, rtol=0, atol=1e-7)
    assert near_count(positions, 2) == 2
    assert near_count(positions, 0) == 0
    assert near_count(positions, 100) == 6
    scores = np.ones(6)
    decay_scores(scores, probs[:, 2], 0.5, False, near_count(positions, 2))
    assert scores[:4].tolist() == pytest.approx((0.5 + 0.5 * probs[:, 2, :4].mean(axis=0)).tolist())
    assert scores[4:].tolist() == [0.5, 0.5]


def test_mean_square_is_over_the_queries_that_could_see_the_token_and_chunks_do_not_matter() -> None:
    random = np.random.default_rng(7)
    n, positions = 40, np.arange(40)
    probs = np.tril(softmax_like(random, 2, n, n))
    expected = np.zeros(n)
    for token in range(n):
        squares = [float((probs[:, query, token].astype(np.float64) ** 2).mean()) for query in range(token + 2, n)]
        expected[token] = sum(squares) / max(16, len(squares))
    whole = seeded_scores(np.zeros(n), probs.copy(), positions, 0, SQUARE_NEAR_2)
    assert np.allclose(whole, expected, rtol=1e-5, atol=1e-12)
    first = seeded_scores(np.zeros(25), probs[:, :25, :25].copy(), positions[:25], 0, SQUARE_NEAR_2)
    both = seeded_scores(np.append(first, np.zeros(15)), probs[:, 25:].copy(), positions, 25, SQUARE_NEAR_2)
    assert np.allclose(both, expected, rtol=1e-5, atol=1e-12)
    scores = np.zeros(n)
    decay_scores(scores, probs[:, 39], 0.75, True, 2)
    assert scores[:38] == pytest.approx(0.25 * (probs[:, 39, :38].astype(np.float64) ** 2).mean(axis=0))
    assert scores[38:].tolist() == [0.0, 0.0]


def test_controls_prefer_new_tokens_or_fixed_random_ones() -> None:
    positions = np.array([0, 3, 4, 90], dtype=np.int64)
    assert control_scores("window", 2, positions).tolist() == [0, 3, 4, 90]
    first, later = control_scores("random", 2, positions), control_scores("random", 2, positions[1:])
    assert first[1:].tolist() == later.tolist()
    assert len(set(first.tolist())) == 4
    assert control_scores("random", 3, positions).tolist() != first.tolist()


@pytest.mark.parametrize(("positions", "runs"), [([], 0), ([4], 1), ([0, 1, 2], 1), ([0, 2, 3, 9], 3)])
def test_runs_of_positions_are_counted(positions: list[int], runs: int) -> None:
    assert run_count(np.array(positions, dtype=np.int64)) == runs
