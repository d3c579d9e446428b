from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import generate, greedy_token, teacher_forced_logits
from h2o_gate_plugin.runtime.model import decode_one_token, prefill


def test_the_lowest_token_wins_a_tie() -> None:
    assert greedy_token(np.array([0.0, 2.0, 2.0], dtype=np.float32)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(EngineError, match=r"expected finite numbers, got \S+ for token 2"):
        greedy_token(np.array([0.0, 5.0, bad], dtype=np.float32))


def test_generation_feeds_every_token_it_chose(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache, again = make_cache(), make_cache()
    tokens = generate(tiny, prefill(tiny, (1, 2, 3), cache), 5, cache)
    logits = prefill(tiny, (1, 2, 3), again)
    for token in tokens:
        assert token == int(logits.argmax())
        logits = decode_one_token(tiny, token, again)
    assert cache.n_seen == again.n_seen == 8


def test_weights_that_give_nan_are_caught_at_the_first_token(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache = make_cache()
    broken = replace(tiny, norm=np.full_like(tiny.norm, np.nan))
    with pytest.raises(EngineError, match="logits"):
        generate(broken, prefill(broken, (1, 2), cache), 3, cache)


def test_teacher_forcing_returns_the_logits_after_each_token(tiny: Model, make_cache: Callable[[], Any]) -> None:
    cache, again = make_cache(), make_cache()
    prefill(tiny, (1, 2), cache)
    prefill(tiny, (1, 2), again)
    rows = teacher_forced_logits(tiny, (7, 8), cache)
    np.testing.assert_array_equal(rows[0], decode_one_token(tiny, 7, again))
    np.testing.assert_array_equal(rows[1], decode_one_token(tiny, 8, again))
