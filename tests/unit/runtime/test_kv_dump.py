from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.dump import DumpWriter, read_dump
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import teacher_forced_logits
from h2o_gate_plugin.runtime.kv_dump import DumpRequest, dump_request, write_kv_dump
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.timed_run import kv_shape

PROMPT, CONTINUATION = tuple(range(30, 90)), (5, 6, 7, 8)


def test_the_environment_is_read_as_the_contract_says() -> None:
    assert dump_request({"MNN_KV_DUMP_STAGE": "decode"}) is None
    assert dump_request({"MNN_KV_DUMP_DIR": "d"}) == DumpRequest(Path("d"), "run", "both", None)
    full = {"MNN_KV_DUMP_DIR": "d", "MNN_KV_DUMP_RUN_ID": "x", "MNN_KV_DUMP_STAGE": "decode", "MNN_KV_DUMP_MAX_TOKENS": "70"}
    assert dump_request(full) == DumpRequest(Path("d"), "x", "decode", 70)


@pytest.mark.parametrize(
    ("name", "value"),
    [("MNN_KV_DUMP_STAGE", "all"), ("MNN_KV_DUMP_MAX_TOKENS", "0"), ("MNN_KV_DUMP_MAX_TOKENS", "-5"), ("MNN_KV_DUMP_MAX_TOKENS", "x")],
)
def test_a_bad_dump_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"environment: {name}: expected"):
        dump_request({"MNN_KV_DUMP_DIR": "d", name: value})


def test_the_dump_holds_what_the_model_appended_even_where_it_was_evicted_later(
    tiny: Model, make_cache: Callable[[], Any], tmp_path: Path
) -> None:
    plain = make_cache()
    prefill(tiny, PROMPT, plain)
    teacher_forced_logits(tiny, CONTINUATION, plain)
    evicting = {
        "kv_h2o_enable": True,
        "kv_h2o_layer_start": 0,
        "kv_h2o_block_tokens": 4,
        "kv_h2o_sink_tokens": 4,
        "kv_h2o_recent_tokens": 8,
    }
    policy = KvPolicy.from_values(evicting | {"kv_h2o_trigger_min_tokens": 63})
    with KvCache(kv_shape(tiny), policy) as cache:
        write_kv_dump(DumpWriter(tmp_path, "abc", "both"), tiny, cache, PROMPT, CONTINUATION)
        assert len(cache.positions(0)) < 40
    dump = read_dump(tmp_path)
    assert dump.skipped == ()
    spans = sorted((entry.layer, entry.stage, entry.seq_start, entry.seq_len) for entry in dump.entries)
    assert spans == [
        (layer, stage, start, length) for layer in range(3) for stage, start, length in (("decode", 60, 4), ("prefill", 0, 60))
    ]
    for entry in dump.entries:
        for path, stored in ((entry.k_path, plain.keys), (entry.v_path, plain.values)):
            words = np.fromfile(path, dtype="<f2").reshape(entry.seq_len, entry.kv_heads, entry.head_dim)
            if entry.layer == 0:  # deeper layers feel the eviction
                expected = stored(0)[entry.seq_start : entry.seq_start + entry.seq_len]
                np.testing.assert_allclose(words.astype(np.float32), expected, rtol=2e-3, atol=1e-4)
            assert np.isfinite(words).all()
