from __future__ import annotations

import numpy as np
import pytest

from h2o_gate_plugin.runtime.ops import log_softmax, rms_norm, rope_tables, rotate, silu


def test_rms_norm_gives_rows_of_unit_mean_square_times_the_weight() -> None:
    x = np.array([[3.0, -4.0], [0.0, 0.0]], dtype=np.float32)
    normed = rms_norm(x, np.array([1.0, 2.0], dtype=np.float32), 0.0 + 1e-12)
    np.testing.assert_allclose(normed[0], [3 / np.sqrt(12.5), -8 / np.sqrt(12.5)], rtol=1e-6)
    assert np.array_equal(normed[1], [0.0, 0.0])
    assert normed.dtype == np.float32


def test_rotation_at_position_zero_changes_nothing_and_later_turns_the_pair_by_the_angle() -> None:
    cos, sin = rope_tables(3, np.array([1.0, 0.1], dtype=np.float32))
    x = np.tile(np.array([1.0, 0.0, 0.0, 2.0], dtype=np.float32), (3, 1, 1))
    out = rotate(x, cos[:, None], sin[:, None])[:, 0]
    assert np.array_equal(out[0], [1.0, 0.0, 0.0, 2.0])
    # pairs are (0, 2) at frequency 1 and (1, 3) at frequency 0.1
    np.testing.assert_allclose(out[2], [np.cos(2), -2 * np.sin(0.2), np.sin(2), 2 * np.cos(0.2)], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_silu_is_right_at_both_ends_without_a_warning() -> None:
    x = np.array([-1000.0, -1.0, 0.0, 1000.0], dtype=np.float32)
    np.testing.assert_allclose(silu(x), [0.0, -1 / (1 + np.e), 0.0, 1000.0], rtol=1e-6)
    assert silu(x).dtype == np.float32


def test_log_softmax_sums_to_one_in_float64() -> None:
    logits = np.array([[0.0, 700.0, 1.0]], dtype=np.float32)
    assert log_softmax(logits).dtype == np.float64
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(), 1.0)
