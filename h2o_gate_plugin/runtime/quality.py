"""How well the model still reads with this KV configuration: held-out text and planted recall, never timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from h2o_gate_plugin.runtime.attention import AttentionCache
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import greedy_token, teacher_forced_logits
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.ops import F32, log_softmax
from h2o_gate_plugin.runtime.prompts import PlantedPrompt, Prompt

OpenCache = Callable[[], AbstractContextManager[AttentionCache]]

MAX_TEXT_TOKENS = 128


@dataclass(frozen=True)
class TextQuality:
    """Means over the decoded positions: nll in nats per token on the true text, KL(full || kv) in nats, share of equal argmax."""

    nll_full: float
    nll_kv: float
    kl_mean: float
    top1_agree: float


@dataclass(frozen=True)
class Quality:
    """None = not measured: constant prompt, or a prompt without room for the planted pairs."""

    text: TextQuality | None
    recall_full: float | None
    recall_kv: float | None


def measure_quality(
    model: Model, prompt: Prompt, planted: PlantedPrompt | None, open_full: OpenCache, open_kv: OpenCache | None
) -> Quality:
    """Compare the full cache with the KV configuration; ``open_kv`` None: KV features are off and both are the same run.

    ``prompt.continuation`` holds the fed tokens and one more. Every position is decoded one token at a time in both, on one
    code path: a lossless configuration gives kl_mean 0 exactly.
    """
    text = None
    if prompt.kind == "text":
        full = continuation_logits(model, prompt, open_full)
        kv = full if open_kv is None else continuation_logits(model, prompt, open_kv)
        text = compare(full, kv, prompt.continuation[1:])
    if planted is None:
        return Quality(text, None, None)
    recall_full = recall(model, planted, open_full)
    return Quality(text, recall_full, recall_full if open_kv is None else recall(model, planted, open_kv))


def continuation_logits(model: Model, prompt: Prompt, open_cache: OpenCache) -> F32:
    """Row i holds the logits after continuation token i, for all but the last. -> [n - 1, vocab]"""
    with open_cache() as cache:
        prefill(model, prompt.ids, cache)
        return teacher_forced_logits(model, prompt.continuation[:-1], cache)


def compare(full: F32, kv: F32, targets: Sequence[int]) -> TextQuality:
    """Both [n, vocab] logits; ``targets`` [n] the true next tokens."""
    log_full, log_kv = log_softmax(full), log_softmax(kv)
    rows = np.arange(len(targets))
    chosen = np.asarray(targets)
    return TextQuality(
        nll_full=float(-log_full[rows, chosen].mean()),
        nll_kv=float(-log_kv[rows, chosen].mean()),
        kl_mean=float((np.exp(log_full) * (log_full - log_kv)).sum(axis=-1).mean()),
        top1_agree=float((full.argmax(axis=-1) == kv.argmax(axis=-1)).mean()),
    )


def recall(model: Model, planted: PlantedPrompt, open_cache: OpenCache) -> float:
    """Share of planted answers (0 to 1) whose every token is the argmax when the prompt's pairs are asked again."""
    with open_cache() as cache:
        first = prefill(model, planted.ids, cache)
        rows = teacher_forced_logits(model, planted.questions[:-1], cache)
    guesses = [greedy_token(first), *(int(token) for token in rows.argmax(axis=-1))]  # guesses[i] is for questions[i]
    right = [all(guesses[place] == planted.questions[place] for place in answer) for answer in planted.answers]
    return sum(right) / len(right)
