from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.arguments import parse_arguments
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import generate, teacher_forced_logits
from h2o_gate_plugin.runtime.instances import sweep
from h2o_gate_plugin.runtime.measure import load, measure_instance
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.ops import log_softmax
from h2o_gate_plugin.runtime.planted import PlantedPrompt
from h2o_gate_plugin.runtime.prompts import Prompt
from h2o_gate_plugin.runtime.quality import Quality, compared_policies, measure_quality, quality_wanted
from h2o_gate_plugin.runtime.timed_run import kv_shape

FULL = KvPolicy.from_values({})
H2O_KEYS: dict[str, bool | int | float | str] = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 2,
    "kv_h2o_sink_tokens": 2,
    "kv_h2o_recent_tokens": 4,
    "kv_h2o_update_interval": 2,
    "kv_h2o_trigger_min_tokens": 8,
}
LOSSLESS_KEYS: dict[str, bool | int | float | str] = {
    "kv_lossless_enable": True,
    "kv_lossless_runtime_enable": True,
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_runtime_mode": "store",
    "kv_lossless_store_bootstrap_tokens": 8,
    "kv_lossless_store_grouped_step_tokens": 8,
    "kv_lossless_hot_recent_tokens": 4,
    "kv_lossless_hot_sink_tokens": 0,
}
H2O, LOSSLESS = KvPolicy.from_values(H2O_KEYS), KvPolicy.from_values(LOSSLESS_KEYS)
TEXT = Prompt("text", tuple(range(40, 80)), (3, 9, 27, 81, 3, 200, 10, 11, 12))
OTHER_TEXT = Prompt("text", tuple(range(90, 50, -1)), (7, 8, 7, 8, 7, 8, 7, 8, 7))


class ReversingFork:
    """Forks of every policy but FULL give their attention back to front."""

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def __enter__(self) -> ReversingFork:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()

    def fork(self, policy: KvPolicy) -> Any:
        fork = self.cache.fork(policy)
        return fork if policy == FULL else Reversing(fork)


class Reversing(ReversingFork):
    def attend(self, *args: Any, **kwargs: Any) -> Any:
        return np.ascontiguousarray(self.cache.attend(*args, **kwargs)[:, ::-1])


def measured(
    model: Model,
    policy: KvPolicy,
    plain: tuple[Prompt, ...] = (TEXT,),
    planted: tuple[PlantedPrompt, ...] = (),
    wrapped: Callable[[KvCache], Any] = lambda cache: cache,
) -> Quality[Any]:
    policies = compared_policies(policy, FULL)
    return measure_quality(model, plain, planted, policies, "full", lambda opened: wrapped(KvCache(kv_shape(model), opened)))


def planted_from_own_output(model: Model) -> PlantedPrompt:
    """Questions that the model answers right, because they are what it says anyway."""
    with KvCache(kv_shape(model), FULL) as cache:
        said = generate(model, prefill(model, TEXT.ids, cache), 8, cache)
    return PlantedPrompt(TEXT.ids, said, heavy=((0,), (2, 3)), first_time=((5,), (6, 7)))


def test_a_lossless_configuration_has_no_divergence_at_all(tiny: Model) -> None:
    readings = measured(tiny, LOSSLESS, planted=(planted_from_own_output(tiny),)).readings
    assert set(readings) == {"full", "kv"}
    assert readings["kv"] == readings["full"]
    assert (readings["kv"].kl_mean, readings["kv"].top1_agree, readings["kv"].recall, readings["kv"].recall_first) == (0.0, 1.0, 1.0, 1.0)


def test_a_broken_cache_shows_in_every_number(tiny: Model) -> None:
    readings = measured(tiny, LOSSLESS, planted=(planted_from_own_output(tiny),), wrapped=ReversingFork).readings
    broken, full = readings["kv"], readings["full"]
    assert broken.kl_mean is not None
    assert broken.kl_mean > 0.05
    assert broken.nll != full.nll
    assert (full.recall, full.recall_first) == (1.0, 1.0)
    for share in (broken.top1_agree, broken.recall, broken.recall_first):
        assert share is not None
        assert share < 1.0


def test_the_divergence_at_each_position_has_the_mean_divergence_for_its_mean(tiny: Model) -> None:
    quality = measured(tiny, H2O, plain=(TEXT, OTHER_TEXT))
    assert set(quality.kl_by_position) == {"kv", "random", "window"}
    for name, by_position in quality.kl_by_position.items():
        assert len(by_position) == len(TEXT.continuation) - 1
        assert np.mean(by_position) == pytest.approx(quality.readings[name].kl_mean)


def test_prompts_that_end_earlier_leave_later_positions_to_the_others(tiny: Model) -> None:
    short = replace(OTHER_TEXT, continuation=OTHER_TEXT.continuation[:4])
    both, alone = (measured(tiny, H2O, plain=plain).kl_by_position["kv"] for plain in ((TEXT, short), (TEXT,)))
    assert both[3:] == alone[3:]
    assert both[:3] != alone[:3]


class ReversingPrompts(ReversingFork):
    """Under every policy but FULL the prompt's attention comes back to front; decode is sound."""

    def attend(self, layer: int, queries: Any, keys: Any, values: Any, decode: bool) -> Any:
        mixed = self.cache.attend(layer, queries, keys, values, decode)
        return mixed if decode or self.cache.policy == FULL.resolved(self.cache.shape.n_layer) else np.ascontiguousarray(mixed[:, ::-1])

    def fork(self, policy: KvPolicy) -> Any:
        return self.cache.fork(policy)


def test_a_cache_that_is_broken_in_the_prompt_already_shows_too(tiny: Model) -> None:
    readings = measured(tiny, LOSSLESS, wrapped=ReversingPrompts).readings
    assert readings["full"] == measured(tiny, LOSSLESS).readings["full"]
    assert readings["kv"].kl_mean is not None
    assert readings["kv"].kl_mean > 0.05


def test_eviction_is_compared_with_two_controls_that_keep_as_much_in_other_places(tiny: Model) -> None:
    policies = compared_policies(H2O, FULL)
    assert set(policies) == {"full", "kv", "random", "window"}
    for selection in ("random", "window"):
        assert replace(policies[selection], selection="heavy", lossless=H2O.lossless) == H2O
    kept: dict[str, tuple[int, ...]] = {}
    positions: dict[str, tuple[int, ...]] = {}
    with KvCache(kv_shape(tiny), H2O) as cache:
        prefill(tiny, TEXT.ids, cache)
        for name, policy in policies.items():
            with cache.fork(policy) as fork:
                teacher_forced_logits(tiny, TEXT.continuation, fork)
                kept[name] = fork.finish().kept_tokens
                positions[name] = tuple(fork.positions(2))
    assert kept["kv"] == kept["random"] == kept["window"] != kept["full"]
    assert len({positions[name] for name in ("kv", "random", "window")}) == 3


def test_every_policy_has_figures_of_its_own(tiny: Model) -> None:
    readings = measured(tiny, H2O).readings
    divergences = [readings[name].kl_mean for name in ("full", "kv", "random", "window")]
    assert divergences[0] == 0.0
    assert len(set(divergences)) == 4
    assert all(divergence is not None and divergence > 0.0 for divergence in divergences[1:])
    assert readings["kv"].recall is None, "nothing was planted"


def test_text_figures_follow_the_definitions(tiny: Model) -> None:
    logits = {}
    with KvCache(kv_shape(tiny), H2O) as cache:
        prefill(tiny, TEXT.ids, cache)
        for name, policy in compared_policies(H2O, FULL).items():
            with cache.fork(policy) as fork:
                logits[name] = teacher_forced_logits(tiny, TEXT.continuation[:-1], fork)
    full, kv = log_softmax(logits["full"]), log_softmax(logits["kv"])
    rows, targets = np.arange(len(full)), list(TEXT.continuation[1:])
    reading = measured(tiny, H2O).readings["kv"]
    assert reading.nll == pytest.approx(-kv[rows, targets].mean())
    assert reading.kl_mean == pytest.approx((np.exp(full) * (full - kv)).sum(axis=1).mean())
    assert reading.top1_agree == (full.argmax(axis=1) == kv.argmax(axis=1)).mean()


def test_figures_are_means_over_the_prompts(tiny: Model) -> None:
    both, first, second = (measured(tiny, H2O, plain) for plain in ((TEXT, OTHER_TEXT), (TEXT,), (OTHER_TEXT,)))
    assert (both.prompts, first.prompts) == (2, 1)
    for name in ("full", "kv", "random", "window"):
        figures = [astuple(quality.readings[name])[:3] for quality in (first, second)]
        assert astuple(both.readings[name])[:3] == pytest.approx(np.mean(figures, axis=0))


def test_one_wrong_token_makes_its_answer_wrong(tiny: Model) -> None:
    right = planted_from_own_output(tiny)

    def shares(questions: tuple[int, ...], *prompts: PlantedPrompt) -> tuple[float | None, float | None, int]:
        quality = measured(tiny, FULL, (), (*prompts, replace(right, questions=questions)))
        return quality.readings["full"].recall, quality.readings["full"].recall_first, quality.answers

    def wrong(place: int) -> tuple[int, ...]:
        return (*right.questions[:place], (right.questions[place] + 1) % 256, *right.questions[place + 1 :])

    assert shares(right.questions) == (1.0, 1.0, 2)
    assert shares(wrong(7)) == (1.0, 0.5, 2)
    assert shares(wrong(7), right) == (1.0, 0.75, 4)
    recall, _, _ = shares(wrong(0))
    assert recall is not None
    assert recall <= 0.5, "the first token is guessed from the prompt's own logits"


def test_without_kv_features_the_kv_figures_are_the_full_ones(bench_config: Callable[..., Path]) -> None:
    config = bench_config()
    (instance,) = sweep(parse_arguments(f"-m {config} -kv true -t 1 -p 40 -n 6".split()))
    quality = measure_instance(load(config, "text", 1), instance, 1, None).quality
    assert quality is not None
    assert set(quality.readings) == {"full", "kv"}
    assert quality.readings["kv"] == quality.readings["full"]
    assert quality.readings["kv"].kl_mean == 0.0


def test_the_environment_switches_quality_off(bench_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config = bench_config()
    (instance,) = sweep(parse_arguments(f"-m {config} -kv true -t 1 -p 40 -n 6".split()))
    monkeypatch.setenv("H2O_BENCH_QUALITY", "off")
    assert measure_instance(load(config, "text", 1), instance, 1, None).quality is None
    monkeypatch.setenv("H2O_BENCH_QUALITY", "0")
    with pytest.raises(ConfigError, match="H2O_BENCH_QUALITY: expected on or off, got '0'"):
        load(config, "text", 1)


def test_quality_is_wanted_unless_it_is_switched_off() -> None:
    assert [quality_wanted(environment) for environment in ({}, {"H2O_BENCH_QUALITY": "on"}, {"H2O_BENCH_QUALITY": "off"})] == [
        True,
        True,
        False,
    ]
