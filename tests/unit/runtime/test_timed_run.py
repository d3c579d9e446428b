from __future__ import annotations

from dataclasses import replace

import pytest

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.timed_run import check_repeats, run_once

PROMPT = tuple(i * 37 % 251 for i in range(200))
H2O = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 8,
    "kv_h2o_sink_tokens": 4,
    "kv_h2o_recent_tokens": 16,
    "kv_h2o_target_lossy_ratio": 3.2,
    "kv_h2o_trigger_min_tokens": 64,
    "kv_h2o_log_stats": True,
}


@pytest.fixture
def policy(tiny: Model) -> KvPolicy:
    return KvPolicy.from_values(H2O).resolved(tiny.config.n_layer)


def test_a_run_counts_real_tokens_and_seconds_and_keeps_the_log(tiny: Model, policy: KvPolicy) -> None:
    run = run_once(tiny, policy, PROMPT, 20)
    assert run.decode_tokens == 20
    assert run.prefill_s > 0
    assert run.decode_s > 0
    assert run.report.lossy_ratio is not None
    assert run.report.lossy_ratio > 3.0
    assert run.report.kept_tokens[0] == 220, "a layer outside the range keeps everything"
    assert run.report.kept_tokens[2] < 100
    assert [line.split()[:2] for line in run.log] == [["[H2O]", "layer=1"], ["[H2O]", "layer=2"]] * 2


def test_repeats_of_one_run_are_bit_identical(tiny: Model, policy: KvPolicy) -> None:
    runs = [run_once(tiny, policy, PROMPT, 20) for _ in range(3)]
    check_repeats(runs, "here")
    assert len({run.fingerprint for run in runs}) == 1


def test_another_policy_prompt_or_length_gives_another_fingerprint(tiny: Model, policy: KvPolicy) -> None:
    runs = [
        run_once(tiny, policy, PROMPT, 20),
        run_once(tiny, replace(policy, recent_tokens=24), PROMPT, 20),
        run_once(tiny, policy, (*PROMPT[:-1], 1), 20),
        run_once(tiny, policy, PROMPT, 21),
    ]
    assert len({run.fingerprint for run in runs}) == 4
    with pytest.raises(EngineError, match="here: repeat 2: expected the same tokens, kept positions and KV bytes"):
        check_repeats(runs, "here")


def test_weights_that_give_nan_end_the_run(tiny: Model) -> None:
    broken = replace(tiny, norm=tiny.norm * float("nan"))
    with pytest.raises(EngineError, match="logits"):
        run_once(broken, KvPolicy.from_values({}).resolved(tiny.config.n_layer), PROMPT, 2)
