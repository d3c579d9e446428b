"""How well the model still reads with a KV configuration, against the full cache and against two controls of equal bytes; never timed.

Three buckets of text: plain held-out text (divergence from the full cache), heavy pairs and first-time pairs (recall, see `planted`).
Each prompt is prefilled twice: into a full cache that shares nothing with the others, and into one from which every other policy decodes a
fork. All are teacher-forced, one token at a time on one code path: where a policy leaves the same KV as the full cache, the logits are
the same bits and the divergence is 0 exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import greedy_token
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.ops import log_softmax
from h2o_gate_plugin.runtime.planted import PlantedPrompt
from h2o_gate_plugin.runtime.prompts import Prompt

Role = Literal["full", "kv", "random", "window"]
"""Nothing evicted; the configuration under test; as many bytes kept at random; as many in sink and recent tokens alone."""

QUALITY_VARIABLE = "H2O_BENCH_QUALITY"
MAX_TEXT_TOKENS = 128
N_PLAIN = N_PLANTED = 4
"""Prompts of a row, so that a figure is not one prompt's luck."""


class ForkableCache(AttentionCache, Protocol):
    def fork(self, policy: KvPolicy) -> AbstractContextManager[AttentionCache]:
        """A cache with the same tokens and scores under another policy."""


Name = TypeVar("Name", bound=str)
OpenCache = Callable[[KvPolicy], AbstractContextManager[ForkableCache]]
"""An empty cache under a policy, which says how prompts seed the scores."""


@dataclass(frozen=True)
class Reading:
    """What one cache made of all prompts; None: not measured.

    ``nll``: nats per token on the true text; ``kl_mean``: KL(full || this) in nats; ``top1_agree``: share of positions with the full
    cache's argmax; ``recall`` and ``recall_first``: shares of heavy and of first-time answers whose every token is the argmax.
    """

    nll: float | None
    kl_mean: float | None
    top1_agree: float | None
    recall: float | None
    recall_first: float | None


@dataclass(frozen=True)
class Quality(Generic[Name]):
    """``prompts``: plain ones; ``answers``: heavy ones, the denominator of ``recall``. ``readings``: by the name of the policy.

    ``kl_by_position``: KL(full || this) in nats at each fed token of the continuation, mean over the plain prompts that reach it.
    """

    prompts: int
    answers: int
    readings: Mapping[Name, Reading]
    kl_by_position: Mapping[Name, tuple[float, ...]] = field(default_factory=dict)


@dataclass
class _Tally:
    nll: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    top1_equal: list[bool] = field(default_factory=list)
    heavy_right: list[bool] = field(default_factory=list)
    first_time_right: list[bool] = field(default_factory=list)

    def reading(self) -> Reading:
        return Reading(*(_mean(values) for values in (self.nll, self.kl, self.top1_equal, self.heavy_right, self.first_time_right)))


def quality_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """What H2O_BENCH_QUALITY says, True when unset. Raises ConfigError for another word than on or off."""
    word = environment.get(QUALITY_VARIABLE, "on")
    if word not in ("on", "off"):
        raise ConfigError(f"environment: {QUALITY_VARIABLE}: expected on or off, got {word!r}; unset it to measure quality")
    return word == "on"


def compared_policies(policy: KvPolicy, full_policy: KvPolicy) -> dict[Role, KvPolicy]:
    """The policies to decode under: ``full`` alone where KV features are off, with the controls where H2O is on."""
    policies: dict[Role, KvPolicy] = {"full": full_policy}
    if policy.active:
        policies["kv"] = policy
    if policy.h2o_enable:
        policies["random"] = replace(policy, selection="random", lossless=False)
        policies["window"] = replace(policy, selection="window", lossless=False)
    return policies


def measure_quality(
    model: Model,
    plain: Sequence[Prompt],
    planted: Sequence[PlantedPrompt],
    policies: Mapping[Name, KvPolicy],
    full: Name,
    open_cache: OpenCache,
) -> Quality[Name]:
    """Decode all prompts under all ``policies``, of which the one named ``full`` evicts nothing; the others seed scores alike.

    A plain prompt's ``continuation`` holds the fed tokens and one more. Raises EngineError for logits that are not finite.
    """
    tallies = {name: _Tally() for name in policies}
    n_fed = [len(prompt.continuation) - 1 for prompt in plain]
    for prompt in plain:
        with _prefilled(model, prompt.ids, policies, full, open_cache) as started:
            _read_on(model, prompt.continuation, {name: cache for name, (cache, _) in started.items()}, tallies, full)
    for asked in planted:
        with _prefilled(model, asked.ids, policies, full, open_cache) as started:
            _answer(model, asked, started, tallies)
    n_answers = sum(len(asked.heavy) for asked in planted)
    by_position = {name: _by_position(tally.kl, n_fed) for name, tally in tallies.items() if name != full}
    return Quality(len(plain), n_answers, {name: tally.reading() for name, tally in tallies.items()}, by_position)


@contextmanager
def _prefilled(
    model: Model, ids: Sequence[int], policies: Mapping[Name, KvPolicy], full: Name, open_cache: OpenCache
) -> Iterator[dict[Name, tuple[AttentionCache, int]]]:
    """For every policy a cache of its own that has seen ``ids``, and the token that follows them there."""
    with ExitStack() as stack:
        started: dict[Name, tuple[AttentionCache, int]] = {}
        full_cache = stack.enter_context(open_cache(policies[full]))
        started[full] = full_cache, greedy_token(prefill(model, ids, full_cache))
        others = {name: policy for name, policy in policies.items() if name != full}
        if others:
            seeded = stack.enter_context(open_cache(next(iter(others.values()))))
            guess = greedy_token(prefill(model, ids, seeded))
            started |= {name: (stack.enter_context(seeded.fork(policy)), guess) for name, policy in others.items()}
        yield started


def _read_on(
    model: Model, continuation: Sequence[int], caches: Mapping[Name, AttentionCache], tallies: Mapping[Name, _Tally], full: Name
) -> None:
    for token, target in pairwise(continuation):
        logits = {name: decode_one_token(model, token, cache) for name, cache in caches.items()}
        guesses = {name: greedy_token(row) for name, row in logits.items()}
        log_full = log_softmax(logits[full])
        for name, tally in tallies.items():
            log_probs = log_softmax(logits[name])
            tally.nll.append(-float(log_probs[target]))
            tally.kl.append(float((np.exp(log_full) * (log_full - log_probs)).sum()))
            tally.top1_equal.append(guesses[name] == guesses[full])


def _answer(model: Model, asked: PlantedPrompt, started: Mapping[Name, tuple[AttentionCache, int]], tallies: Mapping[Name, _Tally]) -> None:
    for name, (cache, first_guess) in started.items():
        rows = (decode_one_token(model, token, cache) for token in asked.questions[:-1])
        guesses = [first_guess, *(greedy_token(row) for row in rows)]  # guesses[i] is for questions[i]
        right = [guess == token for guess, token in zip(guesses, asked.questions, strict=True)]
        tallies[name].heavy_right += [all(right[place] for place in answer) for answer in asked.heavy]
        tallies[name].first_time_right += [all(right[place] for place in answer) for answer in asked.first_time]


def _by_position(values: Sequence[float], n_fed: Sequence[int]) -> tuple[float, ...]:
    """``values`` of prompts one after the other, ``n_fed`` of each: the mean at each position."""
    ends = list(accumulate(n_fed))
    prompts = [values[end - count : end] for end, count in zip(ends, n_fed, strict=True)]
    return tuple(float(np.mean([prompt[place] for prompt in prompts if place < len(prompt)])) for place in range(max(n_fed, default=0)))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
