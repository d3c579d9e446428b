"""The model that ships: it loads, it reads, and its files belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import h2o_gate_plugin
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.runtime.measure import LoadedModel, load
from h2o_gate_plugin.runtime.model import hidden_states, next_token_logits
from h2o_gate_plugin.runtime.prompts import N_PAIRS
from h2o_gate_plugin.runtime.quality import compare, continuation_logits
from h2o_gate_plugin.runtime.timed_run import kv_shape

FOLDER = Path(h2o_gate_plugin.__file__).parent / "models" / "reference"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load(FOLDER / "bench_config.json", "text", 1)


def test_its_shape_is_what_the_project_promises(loaded: LoadedModel) -> None:
    config = loaded.model.config
    assert config.head_dim == 64
    assert config.n_layer >= 8
    assert config.n_kv_head < config.n_head
    assert config.context_tokens >= 2048
    assert loaded.model.weights_bytes <= 16 * 1024 * 1024
    assert not loaded.policy.active, "the bench config that ships is the baseline"


def test_it_reads_held_out_text_far_better_than_chance(loaded: LoadedModel) -> None:
    prompt = loaded.prompts.prompt(192, 49)
    logits = continuation_logits(loaded.model, prompt, lambda: KvCache(kv_shape(loaded.model), loaded.full_policy))
    quality = compare(logits, logits, prompt.continuation[1:])
    assert quality.nll_full < 4.5, "uniform guessing over 4,096 tokens costs 8.3 nats"


@pytest.mark.parametrize("n_prompt", [512, 1024])
def test_pairs_can_be_planted_at_the_lengths_of_the_suite(loaded: LoadedModel, n_prompt: int) -> None:
    planted = loaded.prompts.planted_prompt(n_prompt)
    assert planted is not None
    assert len(planted.ids) == n_prompt
    assert [len(answer) for answer in planted.answers] == [3] * N_PAIRS


def test_its_logits_equal_those_of_transformers(loaded: LoadedModel, unrounded_cache: Callable[[int], Any]) -> None:
    torch = pytest.importorskip("torch", reason="the extra `compare` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `compare` is not installed")
    ids = loaded.prompts.prompt(512, 1).ids
    other = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    cache = unrounded_cache(loaded.model.config.n_layer)
    halves = [hidden_states(loaded.model, part, cache, decode=False) for part in (ids[:300], ids[300:])]
    np.testing.assert_allclose(next_token_logits(loaded.model, np.concatenate(halves)), expected, atol=1e-3)
