"""Decode and prefill against transformers on torch CPU, float32, in the setting that is fastest for it on this machine."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from engine_compare import Goal, Side, interleave, print_title, speed_line
from engine_runs import N_DECODE, REFERENCE, Bench, full_kv, prefill_side, prefilled

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.measure import blas_threads

N_TRIAL_ROUND = 3
N_TRIAL = 32
"""Decoded tokens by which the settings are compared with each other."""
REST_S = 0.05
"""OpenBLAS's and OpenMP's threads spin for some 25 ms after their last work, on the cores that the other side needs."""
DECODE_PROMPT, PREFILL_PROMPTS = 512, (512, 1024)
DECODE_GOAL, PREFILL_GOAL = Goal(2.0, at_least=True), Goal(1.0, at_least=True)


@dataclass(frozen=True)
class Setting:
    attention: str
    cache: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.attention}, {self.cache} cache{', compiled' if self.compiled else ''}"


EAGER_SETTINGS = tuple(Setting(attention, cache) for attention in ("sdpa", "eager") for cache in ("dynamic", "static"))
COMPILED = Setting("sdpa", "static", compiled=True)


def transformers(bench: Bench) -> None:
    """Full KV on both sides, the same prompts, the same greedy choice. Raises ConfigError without the extra ``compare``."""
    peer = Peer()
    print_title("Against transformers")
    remarks = []
    for n_threads in bench.threads:
        with blas_threads(n_threads), peer.threads(n_threads):
            ids = bench.prompt(DECODE_PROMPT)
            trials = trial_s({setting: peer.decode_side(setting, ids, N_TRIAL) for setting in peer.settings})
            theirs = peer.decode_side(fastest(trials), ids, N_DECODE)
            with prefilled(bench.model, ids) as decode_under:
                ours = decode_under(full_kv())
                compared = interleave(ours, theirs, bench.n_round, N_DECODE, REST_S)
            print(speed_line("decode", DECODE_PROMPT, n_threads, compared, DECODE_GOAL), flush=True)
            equal = n_equal(ours.tokens, theirs.tokens)
            tried = "; ".join(f"{setting} {N_TRIAL / trial_s:,.0f}" for setting, trial_s in trials.items())
            remarks.append(f"- {n_threads} BLAS threads: both decode the same first {equal} of {N_DECODE} tokens. Tried, tok/s: {tried}.")
            for n_prompt in PREFILL_PROMPTS:
                ids = bench.prompt(n_prompt)
                trials = trial_s({setting: peer.prefill_side(setting, ids) for setting in EAGER_SETTINGS})
                own, other = prefill_side(bench.model, ids, full_kv()), peer.prefill_side(fastest(trials), ids)
                compared = interleave(own, other, bench.n_round, n_prompt, REST_S)
                print(speed_line("prefill", n_prompt, n_threads, compared, PREFILL_GOAL), flush=True)
                remarks.append(f"- {n_threads} BLAS threads: prefill of {n_prompt:,}: {fastest(trials)}.")
    print("\n".join(("", *remarks)), flush=True)


def trial_s(sides: Mapping[Setting, Side]) -> dict[Setting, float]:
    """The best of `N_TRIAL_ROUND` runs of each, in turn, after a warm-up, which compiles."""
    for side in sides.values():
        side()
    rounds = [{setting: side() for setting, side in sides.items()} for _ in range(N_TRIAL_ROUND)]
    return {setting: min(run_s[setting] for run_s in rounds) for setting in sides}


def fastest(trials: dict[Setting, float]) -> Setting:
    return min(trials, key=trials.__getitem__)


def n_equal(tokens: Sequence[int], others: Sequence[int]) -> int:
    """Length of the common start."""
    return next((i for i, (token, other) in enumerate(zip(tokens, others, strict=True)) if token != other), len(tokens))


class Peer:
    """AutoModelForCausalLM in float32 under inference mode, one model per attention implementation."""

    def __init__(self) -> None:
        """Raises ConfigError when torch or transformers is missing."""
        try:
            import torch
            import transformers
        except ImportError as err:
            raise ConfigError(f"transformers: expected the extra compare, got {err}; run make install-compare") from err
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*past_key_values")
        transformers.utils.logging.disable_progress_bar()
        self._torch, self._transformers = torch, transformers
        self._models = {
            attention: transformers.AutoModelForCausalLM.from_pretrained(
                REFERENCE, dtype=torch.float32, attn_implementation=attention
            ).eval()
            for attention in ("sdpa", "eager")
        }
        self._compiled = torch.compile(self._models[COMPILED.attention], dynamic=False)
        can_compile = any(shutil.which(name) for name in ("g++", "clang++"))
        self.settings = (*EAGER_SETTINGS, COMPILED) if can_compile else EAGER_SETTINGS

    @contextmanager
    def threads(self, n_threads: int) -> Iterator[None]:
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(n_threads)
        try:
            with self._torch.inference_mode():
                yield
        finally:
            self._torch.set_num_threads(before)

    def prefill_side(self, setting: Setting, ids: Sequence[int]) -> Side:
        return lambda: self._prefill(setting, ids)[0]

    def decode_side(self, setting: Setting, ids: Sequence[int], n_tokens: int) -> PeerDecode:
        _, cache, token = self._prefill(setting, ids)
        step = self._compiled if setting.compiled else self._models[setting.attention]
        return PeerDecode(step, cache, token, n_tokens)

    def _prefill(self, setting: Setting, ids: Sequence[int]) -> tuple[float, Any, Any]:
        """Seconds up to the first token, the cache, the token [1, 1]."""
        model, prompt = self._models[setting.attention], self._torch.tensor([ids])
        if setting.cache == "static":
            cache = self._transformers.StaticCache(config=model.config, max_cache_len=len(ids) + N_DECODE)
        else:
            cache = self._transformers.DynamicCache(config=model.config)
        started = perf_counter()
        logits = model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        token.item()
        return perf_counter() - started, cache, token


class PeerDecode:
    """A side: ``n_tokens`` greedy tokens on a copy of a prefilled cache, which is made outside the time."""

    def __init__(self, step: Callable[..., Any], cache: Any, token: Any, n_tokens: int) -> None:
        self._step, self._cache, self._token, self._n_tokens = step, cache, token, n_tokens
        self.tokens: tuple[int, ...] = ()

    def __call__(self) -> float:
        cache, token, tokens = copy.deepcopy(self._cache), self._token, []
        started = perf_counter()
        for _ in range(self._n_tokens):
            tokens.append(token.item())
            token = self._step(token, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
        token.item()
        decode_s = perf_counter() - started
        self.tokens = tuple(tokens)
        return decode_s
