"""Faults in how an engine runs: prompts, repeats, speeds, and the ways in which a process ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import h2o_gate_plugin.runtime.generate as generate_module
import h2o_gate_plugin.runtime.measure as measure_module
import h2o_gate_plugin.runtime.model as model_module
import h2o_gate_plugin.runtime.timed_run as timed_module
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.eviction import F64
from h2o_gate_plugin.runtime import llm_bench
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import generate
from h2o_gate_plugin.runtime.model import decode_one_token, prompt_states
from h2o_gate_plugin.runtime.ops import F32
from h2o_gate_plugin.runtime.results import InstanceResult, values_of
from h2o_gate_plugin.runtime.timed_run import run_once

from .planting import Plant, replace

CRASHING_PROMPT_TOKENS = 512
SLOWDOWN = 0.10
LOADED_FACTOR = 1.82
"""A baseline this many times slower makes an equal candidate look 82 % faster."""


def constant_prompt() -> None:
    """The prompt is copies of one token, as the C++ program's is, and the row says so."""
    os.environ["H2O_BENCH_PROMPT"] = "constant"


def ends_well_without_rows() -> None:
    """The model does not load, no row is printed, and the exit code is 0."""
    replace(llm_bench, "bench", lambda arguments: None)


def text_ends_early() -> None:
    """Decoding stops at three quarters, and the speed is the nominal number of tokens over the time."""
    _stop_early()


def text_ends_early_untold() -> None:
    """Decoding stops at three quarters, and decode_tokens is reported as the nominal number too."""
    _stop_early()
    replace(InstanceResult, "decode_tps", property(lambda self: tuple(self.instance.n_gen / run.decode_s for run in self.runs)))

    def nominal(result: InstanceResult) -> dict[str, Any]:
        return values_of(result) | {"decode_tokens": tuple(float(result.instance.n_gen) for _ in result.runs)}

    replace(llm_bench, "values_of", nominal)


def _stop_early() -> None:
    def shorter(model: Model, logits: F32, n_tokens: int, cache: Any) -> tuple[int, ...]:
        return generate(model, logits, n_tokens * 3 // 4, cache)

    replace(timed_module, "generate", shorter)
    replace(InstanceResult, "decode_tps", property(lambda self: tuple(self.instance.n_gen / run.decode_s for run in self.runs)))


def repeats_share_layers() -> None:
    """Between repeats only layer 0 is cleared; the engine's own comparison of repeats notices."""
    left: list[KvCache] = []

    class Uncleared(KvCache):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if left:
                self._layers = (self._layers[0], *left[0]._layers[1:])
                for kv in self._layers[1:]:
                    kv._ledger = self._ledger
                    self._ledger.add(kv.layer, sum(rows.nbytes for rows in kv._raw.values()))
                self._store._layers = self._layers
            left[:] = [self]

    replace(timed_module, "KvCache", Uncleared)


def repeats_share_layers_untold() -> None:
    """Between repeats only layer 0 is cleared, in an engine that does not compare its repeats."""
    repeats_share_layers()
    replace(measure_module, "check_repeats", lambda runs, name: None)


def scores_of_last_prompt() -> None:
    """The first plan for a prompt ranks its tokens by the scores that the prompt before it left."""
    evict = KvCache._evict
    left: dict[int, F64] = {}

    def stale(self: KvCache, layer: int) -> None:
        kv = self._layers[layer]
        if self._plans[layer] is None and self.policy.selection == "heavy":
            own = kv.scores.copy()
            if len(left.get(layer, ())) == len(own):
                kv.scores[:] = left[layer]
            left[layer] = own
        evict(self, layer)

    replace(KvCache, "_evict", stale)


def prefilled_differently() -> None:
    """A cache with a lossless store is prefilled in one piece, any other in chunks of 64 tokens."""

    def pieces(model: Model, ids: Sequence[int], cache: Any) -> F32:
        size = len(ids) if getattr(cache, "policy", None) is not None and cache.policy.lossless else 64
        for start in range(0, len(ids), size):
            hidden = prompt_states(model, ids[start : start + size], cache)
        return hidden

    replace(model_module, "prompt_states", pieces)


def candidate_is_slower() -> None:
    """With KV features on, every decoded token takes 10 % longer."""
    _slow_tokens(lambda active: SLOWDOWN if active else 0.0)


def baseline_on_loaded_machine() -> None:
    """With KV features off, every decoded token takes 1.82 times as long."""
    _slow_tokens(lambda active: 0.0 if active else LOADED_FACTOR - 1.0)


def _slow_tokens(share: Any) -> None:
    def slowed(model: Model, token: int, cache: Any) -> F32:
        started = time.perf_counter()
        logits: F32 = decode_one_token(model, token, cache)
        until = time.perf_counter() + (time.perf_counter() - started) * share(cache.policy.active)
        while time.perf_counter() < until:
            pass
        return logits

    replace(generate_module, "decode_one_token", slowed)


def crashes() -> None:
    """The process dies of a segmentation fault at one of the prompt lengths."""
    _at_a_length(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def hangs() -> None:
    """The process waits for ever at one of the prompt lengths."""
    _at_a_length(signal.pause)


def _at_a_length(happens: Any) -> None:
    def run(model: Model, policy: Any, prompt_ids: Sequence[int], n_gen: int) -> Any:
        if policy.active and len(prompt_ids) == CRASHING_PROMPT_TOKENS:
            sys.stdout.flush()
            happens()
        return run_once(model, policy, prompt_ids, n_gen)

    replace(measure_module, "run_once", run)


PLANTS: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        constant_prompt,
        ends_well_without_rows,
        text_ends_early,
        text_ends_early_untold,
        repeats_share_layers,
        repeats_share_layers_untold,
        scores_of_last_prompt,
        prefilled_differently,
        candidate_is_slower,
        baseline_on_loaded_machine,
        crashes,
        hangs,
    )
}
