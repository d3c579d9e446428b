"""Statistics of words against plain counting."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.offline.tensor_stats import TensorStats, tensor_stats

WORDS = st.sampled_from([0, 0x8000, 1, 0x3C00, 0x3C01, 0xFFFF])
TENSORS = arrays(np.uint16, st.tuples(st.integers(0, 12), st.integers(1, 2), st.integers(1, 3)), elements=WORDS)


def plain_entropy(data: list[int]) -> float:
    return sum(count / len(data) * log2(len(data) / count) for count in Counter(data).values())


@given(TENSORS)
def test_shares_and_entropies_equal_plain_counting(tensor: U16) -> None:
    stats = tensor_stats(tensor)
    words: list[int] = tensor.reshape(-1).tolist()
    rows = [row.tobytes() for row in tensor]
    if not words:
        assert (stats.zero_share, stats.duplicate_row_share, stats.hi_entropy_bits, stats.order0_ratio) == (None, None, None, None)
        return
    assert stats.zero_share == sum(word in (0, 0x8000) for word in words) / len(words)
    assert stats.duplicate_row_share == (len(rows) - len(set(rows))) / len(rows)
    high, low = plain_entropy([word >> 8 for word in words]), plain_entropy([word & 0xFF for word in words])
    assert stats.hi_entropy_bits == pytest.approx(high)
    assert stats.lo_entropy_bits == pytest.approx(low)
    assert stats.order0_ratio == (pytest.approx(16 / (high + low)) if high + low else None)


@given(TENSORS, TENSORS)
def test_sums_count_every_tensor_for_itself(one: U16, other: U16) -> None:
    joined = tensor_stats(one) + tensor_stats(other)
    assert joined.words == one.size + other.size
    assert joined.duplicate_rows == tensor_stats(one).duplicate_rows + tensor_stats(other).duplicate_rows
    assert joined == TensorStats() + tensor_stats(other) + tensor_stats(one)


def test_a_part_of_a_larger_array_is_read_in_its_own_order() -> None:
    tensor = np.arange(2 * 3 * 8, dtype=np.uint16).reshape(3, 2, 8)
    view = tensor.transpose(1, 0, 2)
    assert tensor_stats(view) == tensor_stats(view.copy())
