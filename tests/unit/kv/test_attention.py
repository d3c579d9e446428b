"""The compiled attention against float64 numpy, and its promise: where a token lies changes no bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.jit import exp_not_positive, kernel
from h2o_gate_plugin.kv.attention import DONE, decode_attention, softmax_rows
from h2o_gate_plugin.kv.words import image, rounded, typed
from h2o_gate_plugin.kv_options import KvDtype

F32 = npt.NDArray[np.float32]
NO_SCORES = np.empty(0)


def attended(
    queries: F32, keys: F32, values: F32, dtype: KvDtype, cuts: list[int], unpacked: list[bool], scores: Any = NO_SCORES, near: int = 0
) -> tuple[F32, F32]:
    """``keys`` and ``values`` [n, n_kv_head, d] in runs between ``cuts``, raw or unpacked in turn; the last token is new."""
    words = [rounded(part, dtype, "test") for part in (keys, values)]
    n = len(keys)
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < n - 1), n]
    raw: list[int] = []
    loose: list[int] = []
    runs = []
    for index, (start, stop) in enumerate(pairwise(bounds)):
        is_unpacked = stop < n and unpacked[index % len(unpacked)]
        rows = loose if is_unpacked else raw
        runs.append((int(is_unpacked), len(rows), stop - start))
        rows.extend(range(start, stop))
    probs, mixed = np.empty((len(queries), n), dtype=np.float32), np.empty(queries.shape, dtype=np.float32)
    raw_keys, raw_values = (typed(np.concatenate([part[raw], part[:3]]), dtype) for part in words)  # and spare rows
    raw_keys[len(raw) - 1] = raw_values[len(raw) - 1] = 0  # the kernel writes the new token
    status = decode_attention(
        queries,
        keys[-1],
        values[-1],
        raw_keys,
        raw_values,
        len(raw) - 1,
        typed(words[0][loose], dtype),
        typed(words[1][loose], dtype),
        np.array(runs, dtype=np.int64),
        probs,
        mixed,
        scores,
        0.75,
        False,
        near,
    )
    assert status == DONE
    return probs, mixed


@settings(max_examples=60)
@given(
    n=st.integers(1, 90),
    heads=st.sampled_from([(1, 1), (4, 2), (4, 1), (6, 3)]),
    head_dim=st.sampled_from([2, 8, 10, 64, 80]),
    bf16=st.booleans(),
    cuts=st.lists(st.integers(1, 89), max_size=7),
    unpacked=st.lists(st.booleans(), min_size=1, max_size=4),
    seed=st.integers(0, 10),
)
def test_attention_is_right_and_the_same_bits_wherever_tokens_lie(
    n: int, heads: tuple[int, int], head_dim: int, bf16: bool, cuts: list[int], unpacked: list[bool], seed: int
) -> None:
    random, dtype = np.random.default_rng(seed), ("bf16" if bf16 else "fp16")
    n_head, n_kv_head = heads
    queries = random.standard_normal((n_head, head_dim)).astype(np.float32) * 3
    keys, values = (random.standard_normal((n, n_kv_head, head_dim)).astype(np.float32) for _ in range(2))
    whole = attended(queries, keys, values, dtype, [], [False])  # type: ignore[arg-type]
    pieces = attended(queries, keys, values, dtype, cuts, unpacked)  # type: ignore[arg-type]
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))
    wide = [np.empty(keys.shape, dtype=np.float32) for _ in range(2)]
    for part, out in zip((keys, values), wide, strict=True):
        image(rounded(part, dtype, "test"), dtype, out)  # type: ignore[arg-type]
    per_head = [np.repeat(part, n_head // n_kv_head, axis=1).astype(np.float64) for part in wide]
    scores = np.einsum("hd,nhd->hn", queries, per_head[0]) / np.sqrt(head_dim)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    probs = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(whole[0], probs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(whole[1], np.einsum("hn,nhd->hd", probs, per_head[1]), rtol=1e-5, atol=1e-5)
    assert whole[0].sum(axis=1) == pytest.approx(np.ones(n_head), abs=1e-6)


def test_scores_take_part_only_where_they_are_asked_for() -> None:
    random = np.random.default_rng(0)
    queries, keys = random.standard_normal((4, 8)).astype(np.float32), random.standard_normal((9, 2, 8)).astype(np.float32)
    scores = random.random(9)
    expected = 0.75 * scores
    probs, _ = attended(queries, keys, keys, "fp16", [], [False], scores, near=2)
    expected[:7] += 0.25 * probs.astype(np.float64).mean(axis=0)[:7]
    assert scores == pytest.approx(expected, abs=1e-12)


def test_hidden_columns_get_exactly_nothing_and_unsound_rows_are_told() -> None:
    rows = np.array([[0.0, -np.inf, 50.0], [-200.0, -np.inf, -200.0], [3.0, 3.0, 3.0]], dtype=np.float32)
    assert softmax_rows(rows)
    assert rows[0].tolist() == [0.0, 0.0, 1.0] or rows[0].tolist() == pytest.approx([np.exp(-50), 0.0, 1.0])
    assert rows[:, 1].tolist() == [0.0, 0.0, pytest.approx(1 / 3)]
    assert rows[1].tolist() == [0.5, 0.0, 0.5]
    for bad in (np.nan, np.inf):
        assert not softmax_rows(np.array([[0.0, bad]], dtype=np.float32))
    assert not softmax_rows(np.full((1, 2), -np.inf, dtype=np.float32))


@kernel
def exponentials(x: F32, out: F32) -> None:
    for i in range(len(x)):
        out[i] = exp_not_positive(x[i])


def test_the_exponential_is_within_two_units_in_the_last_place() -> None:
    x = -np.linspace(0, 87, 100_001).astype(np.float32)
    out = np.empty_like(x)
    exponentials(x, out)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(out - exact) / exact) < 2e-7
    assert out[0] == 1.0
    exponentials(x[:1] - np.float32(87.1), out[:1])
    assert out[0] == 0.0
