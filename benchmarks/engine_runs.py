"""Timed runs of the embedded engine in this process: prefill, and greedy decode of one prefilled cache under any policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from engine_compare import Side

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import KvValue, engine_values, suite_values
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import greedy_token
from h2o_gate_plugin.runtime.measure import LoadedModel
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.ops import F32
from h2o_gate_plugin.runtime.timed_run import kv_shape

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "h2o_gate_plugin" / "models" / "reference"
N_DECODE = 128
BLOCK_TOKENS = 16
"""The suite's kv_h2o_update_interval."""


@dataclass(frozen=True)
class Bench:
    """The reference model, rounds per comparison, and the numbers of BLAS threads to measure with."""

    loaded: LoadedModel
    n_round: int
    threads: tuple[int, ...]

    @property
    def model(self) -> Model:
        return self.loaded.model

    def prompt(self, n_prompt: int) -> tuple[int, ...]:
        """Held-out text. Raises ConfigError when there is too little of it."""
        return self.loaded.prompts.prompt(n_prompt, N_DECODE + 1).ids


def full_kv() -> KvPolicy:
    """KV features off."""
    return KvPolicy.from_values(engine_values({}, "KV features off"))


def suite_policy(**changed: KvValue) -> KvPolicy:
    """The suite's defaults, store mode's own where the mode is store, with ``changed`` ``kv_`` keys."""
    return KvPolicy.from_values(suite_values(changed, "suite"))


def h2o_alone() -> KvPolicy:
    """The suite's eviction, nothing encoded."""
    return suite_policy(kv_lossless_enable=False)


@contextmanager
def prefilled(model: Model, ids: tuple[int, ...]) -> Iterator[Callable[[KvPolicy], Decode]]:
    """Prefill once, scores included; yields what makes a `Decode` of that cache under a policy."""
    with KvCache(kv_shape(model), h2o_alone()) as cache:
        logits = prefill(model, ids, cache)
        yield lambda policy: Decode(model, logits, cache, policy)


class Decode:
    """A side: `N_DECODE` greedy tokens on a fork of a prefilled cache. Only the tokens from ``timed_from`` on are counted."""

    def __init__(self, model: Model, logits: F32, cache: KvCache, policy: KvPolicy, timed_from: int = 0) -> None:
        self._model, self._logits, self._cache, self._policy = model, logits, cache, policy
        self.timed_from = timed_from
        self.tokens: tuple[int, ...] = ()
        self._report: KvReport | None = None

    @property
    def report(self) -> KvReport:
        """The last run's. Raises EngineError before the first run."""
        if self._report is None:
            raise EngineError("benchmark: report: expected a finished run, got none; run the side first")
        return self._report

    def __call__(self) -> float:
        """Seconds of one run."""
        return sum(list(self.token_s())[self.timed_from :])

    def blocks(self) -> Iterator[float]:
        """Seconds of each `BLOCK_TOKENS` of one run; each block holds one plan of each layer where the policy plans."""
        token_s: list[float] = []
        for taken_s in self.token_s():
            token_s.append(taken_s)
            if len(token_s) == BLOCK_TOKENS:
                yield sum(token_s)
                token_s.clear()

    def token_s(self) -> Iterator[float]:
        """Everything between tokens counts; what is still queued after the last one is finished outside the time."""
        tokens, logits = [], self._logits
        with self._cache.fork(self._policy) as cache:
            for _ in range(N_DECODE):
                started = perf_counter()
                tokens.append(greedy_token(logits))
                logits = decode_one_token(self._model, tokens[-1], cache)
                yield perf_counter() - started
            self._report = cache.finish()
        self.tokens = tuple(tokens)


def prefill_side(model: Model, ids: tuple[int, ...], policy: KvPolicy) -> Side:
    """A side: one prompt on a fresh cache, up to its first token."""

    def run() -> float:
        with KvCache(kv_shape(model), policy) as cache:
            started = perf_counter()
            greedy_token(prefill(model, ids, cache))
            return perf_counter() - started

    return run
