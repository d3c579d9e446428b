from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import generate
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.prompts import PlantedPrompt, Prompt
from h2o_gate_plugin.runtime.quality import compare, measure_quality, recall

Make = Callable[[], Any]
TEXT = Prompt("text", tuple(range(40, 60)), (3, 9, 27, 81, 3))


class ScramblingCache:
    """A cache with the defect D1: after the prompt the rows of V stand in another order."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def __enter__(self) -> ScramblingCache:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def values(self, layer: int) -> Any:
        values = self.cache.values(layer)
        return values if self.cache.n_seen <= len(TEXT.ids) else values[:, ::-1]


def planted_from_own_output(model: Model, make_cache: Make) -> PlantedPrompt:
    """Questions that the model answers right, because they are what it says anyway."""
    cache = make_cache()
    said = generate(model, prefill(model, TEXT.ids, cache), 6, cache)
    return PlantedPrompt(TEXT.ids, said, ((0,), (2, 3), (5,)))


def test_the_same_cache_twice_has_no_divergence_at_all(tiny: Model, make_cache: Make) -> None:
    quality = measure_quality(tiny, TEXT, None, make_cache, make_cache)
    assert quality.text is not None
    assert (quality.text.kl_mean, quality.text.top1_agree) == (0.0, 1.0)
    assert quality.text.nll_full == quality.text.nll_kv > 0.0
    assert (quality.recall_full, quality.recall_kv) == (None, None)


def test_scrambled_values_show_in_every_number(tiny: Model, make_cache: Make) -> None:
    planted = planted_from_own_output(tiny, make_cache)
    quality = measure_quality(tiny, TEXT, planted, make_cache, lambda: ScramblingCache(make_cache()))
    assert quality.text is not None
    assert quality.text.kl_mean > 0.05
    assert quality.text.nll_kv != quality.text.nll_full
    assert quality.recall_full == 1.0
    assert quality.recall_kv is not None
    assert quality.recall_kv < 1.0


def test_without_kv_features_the_kv_figures_are_the_full_ones(tiny: Model, make_cache: Make) -> None:
    quality = measure_quality(tiny, TEXT, planted_from_own_output(tiny, make_cache), make_cache, None)
    assert quality.text is not None
    assert (quality.text.kl_mean, quality.recall_full, quality.recall_kv) == (0.0, 1.0, 1.0)


def test_a_constant_prompt_has_no_text_quality(tiny: Model, make_cache: Make) -> None:
    assert measure_quality(tiny, Prompt("constant", (16,) * 8, (16,) * 4), None, make_cache, make_cache).text is None


def test_one_wrong_token_makes_its_answer_wrong(tiny: Model, make_cache: Make) -> None:
    planted = planted_from_own_output(tiny, make_cache)
    wrong = (*planted.questions[:5], (planted.questions[5] + 1) % 256)
    assert recall(tiny, PlantedPrompt(planted.ids, wrong, planted.answers), make_cache) == pytest.approx(2 / 3)
    first_wrong = ((planted.questions[0] + 1) % 256, *planted.questions[1:])
    assert recall(tiny, PlantedPrompt(planted.ids, first_wrong, ((0,),)), make_cache) == 0.0


def test_compare_follows_the_definitions() -> None:
    full = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], dtype=np.float32))
    kv = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]], dtype=np.float32))
    quality = compare(full, kv, (1, 1))
    assert quality.nll_full == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2, rel=1e-6)
    assert quality.nll_kv == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-6)
    assert quality.kl_mean == pytest.approx((0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2, rel=1e-5)
    assert quality.top1_agree == 0.5
