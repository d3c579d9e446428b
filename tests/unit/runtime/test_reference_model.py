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
from h2o_gate_plugin.runtime.planted import PAIR_COUNTS
from h2o_gate_plugin.runtime.quality import measure_quality
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
    prompt, full = loaded.prompts.prompt(192, 49), loaded.full_policy
    quality = measure_quality(loaded.model, [prompt], [], {"full": full}, "full", lambda _: KvCache(kv_shape(loaded.model), full))
    nll = quality.readings["full"].nll
    assert nll is not None
    assert nll < 4.5, "uniform guessing over 4,096 tokens costs 8.3 nats"


@pytest.mark.parametrize("n_prompt", [512, 1024])
def test_pairs_can_be_planted_at_the_lengths_of_the_suite(loaded: LoadedModel, n_prompt: int) -> None:
    planted = loaded.prompts.planted_prompt(n_prompt)
    assert planted is not None
    assert len(planted.ids) == n_prompt
    assert (len(planted.heavy), len(planted.first_time)) == PAIR_COUNTS[0]
    assert {len(answer) for answer in (*planted.heavy, *planted.first_time)} == {3}


def test_its_logits_equal_those_of_transformers(
    loaded: LoadedModel, unrounded_cache: Callable[[int], Any], logits_of_prompt: Callable[..., Any]
) -> None:
    torch = pytest.importorskip("torch", reason="the extra `compare` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `compare` is not installed")
    ids = loaded.prompts.prompt(512, 1).ids
    other = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.no_grad():
        expected = other(torch.tensor([ids])).logits[0].numpy()
    cache = unrounded_cache(loaded.model.config.n_layer)
    halves = [logits_of_prompt(loaded.model, part, cache) for part in (ids[:300], ids[300:])]
    np.testing.assert_allclose(np.concatenate(halves), expected, atol=1e-3)
