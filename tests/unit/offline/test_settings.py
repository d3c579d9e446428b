"""Every evaluator parameter is checked before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.offline.settings import EvaluatorSettings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stage": "all"}, "--stage: expected one of prefill, decode, both, got 'all'"),
        ({"scope": "front"}, "--scope: expected one of front_n"),
        ({"entry_mode": "grouped"}, "--entry-mode: expected one of per_meta"),
        ({"codec_mode": "v22"}, "--codec-mode: expected one of legacy"),
        ({"front_n": 0}, "--front-n: expected an integer >= 1, got 0"),
        ({"layer_start": -1}, "--layer-start: expected an integer >= 0"),
        ({"layer_end": -2}, "--layer-end: expected an integer >= -1"),
        (
            {"scope": "layer_range", "layer_start": 3, "layer_end": 2},
            "--layer-end: expected -1 .last. or an integer >= --layer-start 3, got 2",
        ),
        ({"scope": "layer_ids"}, "--layer-ids: expected at least one layer"),
        ({"scope": "layer_ids", "layer_ids": (1, -1)}, "--layer-ids: expected an integer >= 0, got -1"),
        ({"zstd_level": 23}, "--zstd-level: expected an integer >= 1 and <= 22, got 23"),
        ({"zstd_level": True}, "--zstd-level: expected an integer"),
        ({"min_seq_len": 0}, "--min-seq-len: expected an integer >= 1"),
        ({"min_seq_len": 5, "max_seq_len": 4}, "--max-seq-len: expected an integer >= 5, got 4"),
        ({"entry_mode": "chunked"}, "--online-chunk-seq: expected an integer >= 1 .tokens. for --entry-mode chunked, got 0"),
        ({"entry_mode": "chunked_grouped"}, "--online-chunk-seq: expected an integer >= 1"),
        ({"online_framing_bytes": -1}, "--online-framing-bytes: expected an integer >= 0"),
        ({"adaptive_block_seq": 0}, "--adaptive-block-seq: expected an integer >= 1"),
        ({"k_hi_predictors": ("raw", "delta")}, "--k-hi-predictors: expected items of raw, delta_seq"),
        ({"v_lo_predictors": ("pair_delta",)}, "--v-lo-predictors: expected items of raw, delta_seq, xor_seq "),
        ({"v_hi_predictors": ()}, "--v-hi-predictors: expected one or more different items"),
        ({"k_lo_predictors": ("raw", "raw")}, "--k-lo-predictors: expected one or more different items"),
    ],
)
def test_a_value_out_of_range_names_its_option(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        EvaluatorSettings(**values)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_the_contract_s() -> None:
    settings = EvaluatorSettings()
    assert (settings.stage, settings.scope, settings.front_n, settings.entry_mode) == ("both", "front_n", 2, "per_meta")
    assert (settings.online_chunk_seq, settings.online_framing_bytes, settings.codec_mode) == (0, 16, "adaptive_v22")
    assert (settings.adaptive_block_seq, settings.zstd_level) == (64, 3)
