"""The trace: a pass of its own that ends as the timed runs do, and says what the cache held between tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.trace import read_trace
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.arguments import parse_arguments
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.instances import sweep
from h2o_gate_plugin.runtime.llm_bench import main
from h2o_gate_plugin.runtime.measure import load, measure_instance
from h2o_gate_plugin.runtime.timed_run import run_once
from h2o_gate_plugin.runtime.trace import (
    MOST_POINTS,
    MOST_RUNS,
    Moment,
    RunTrace,
    instance_document,
    runs_of,
    trace_file,
    trace_run,
    written_down,
)

H2O: dict[str, Any] = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 2,
    "kv_h2o_sink_tokens": 2,
    "kv_h2o_recent_tokens": 4,
    "kv_h2o_update_interval": 2,
    "kv_h2o_trigger_min_tokens": 8,
}
PROMPT = tuple(range(40, 80))
LAYER_TOKEN_BYTES = 2 * 2 * 2 * 8
"""K and V, 16 bits, two KV heads of size 8."""


@pytest.mark.parametrize(
    ("positions", "runs"), [((), ()), ((3,), ((3, 4),)), ((0, 1, 2, 7), ((0, 3), (7, 8))), ((1, 3, 4), ((1, 2), (3, 5)))]
)
def test_positions_become_runs(positions: tuple[int, ...], runs: tuple[tuple[int, int], ...]) -> None:
    assert runs_of(positions) == runs


def test_a_trace_ends_as_the_timed_run_does_and_agrees_with_its_report(tiny: Model) -> None:
    policy = KvPolicy.from_values(H2O).resolved(3)
    timed, trace = run_once(tiny, policy, PROMPT, 12), trace_run(tiny, policy, PROMPT, 12)
    assert trace.fingerprint == timed.fingerprint
    assert tuple(sum(end - start for start, end in runs or ()) for runs in trace.kept) == timed.report.kept_tokens
    assert [moment.tokens for moment in trace.decode] == list(range(40, 53))
    assert trace.range_layers == (1, 3)
    assert trace.end.full_bytes == timed.report.full_bytes == 52 * 3 * LAYER_TOKEN_BYTES
    assert trace.end.resident_bytes == timed.report.resident_bytes
    assert (trace.end.range_full_bytes, trace.end.range_resident_bytes) == (
        timed.report.range_full_bytes,
        timed.report.range_resident_bytes,
    )
    assert trace.decode[-1].range_resident_bytes == timed.report.range_decoding_bytes


def test_the_first_plan_shows_as_a_step_down(tiny: Model) -> None:
    trace = trace_run(tiny, KvPolicy.from_values(H2O).resolved(3), PROMPT, 4)
    before, after = trace.decode[:2]
    assert before.range_resident_bytes >= before.range_full_bytes
    assert after.range_resident_bytes < after.range_full_bytes


def test_a_long_run_is_thinned_and_keeps_its_ends(tiny: Model) -> None:
    trace = trace_run(tiny, KvPolicy.from_values(H2O).resolved(3), PROMPT, MOST_POINTS + 40)
    tokens = [moment.tokens for moment in trace.decode]
    assert (len(tokens), tokens[0], tokens[-1]) == (MOST_POINTS, 40, 40 + MOST_POINTS + 40)
    assert tokens == sorted(set(tokens))


def test_layers_beyond_the_most_runs_are_left_out_not_cut() -> None:
    layers = tuple(tuple((2 * run, 2 * run + 1) for run in range(MOST_RUNS // 2)) for _ in range(3))
    assert [runs is None for runs in written_down(layers)] == [False, False, True]
    moment = Moment(123_456, 10**10, 10**10, 10**10, 10**10)
    document = instance_document(512, 128, RunTrace((1, 3), (moment,) * MOST_POINTS, moment, written_down(layers), ""), True, None)
    assert len(json.dumps(document)) < 200_000


def test_a_trace_is_made_only_when_asked_for(bench_config: Callable[..., Path]) -> None:
    config = bench_config(**H2O)
    (instance,) = sweep(parse_arguments(f"-m {config} -kv true -t 1 -p 40 -n 6".split()))
    loaded = load(config, "text", 1)
    assert measure_instance(loaded, instance, 1, None).trace is None
    traced = measure_instance(loaded, instance, 2, None, traced=True)
    assert traced.trace is not None
    assert len(traced.runs) == 2, "the traced run is none of the timed ones"


def test_llm_bench_writes_one_instance_per_row_with_the_divergence_at_each_position(
    bench_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = bench_config(**H2O), tmp_path / "trace.json"
    monkeypatch.setenv("H2O_BENCH_TRACE", str(path))
    assert main(f"-m {config} -kv true -t 1 -p 40,56 -n 6 -rep 1 -fp {tmp_path / 'log'}".split()) == 0
    first, second = read_trace(path)
    assert first.agrees
    assert second.agrees
    assert (first.prompt_tokens, second.prompt_tokens, second.gen_tokens) == (40, 56, 6)
    assert first.kl_by_position is not None
    assert set(first.kl_by_position) == {"kv", "random", "window"}
    assert {len(values) for values in first.kl_by_position.values()} == {6}


def test_without_quality_the_divergence_is_not_measured(
    bench_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = bench_config(**H2O), tmp_path / "trace.json"
    monkeypatch.setenv("H2O_BENCH_TRACE", str(path))
    monkeypatch.setenv("H2O_BENCH_QUALITY", "off")
    assert main(f"-m {config} -kv true -t 1 -p 40 -n 6 -rep 1 -fp {tmp_path / 'log'}".split()) == 0
    assert read_trace(path)[0].kl_by_position is None


def test_a_trace_into_no_folder_is_refused(tmp_path: Path) -> None:
    assert trace_file({}) is None
    assert trace_file({"H2O_BENCH_TRACE": str(tmp_path / "trace.json")}) == tmp_path / "trace.json"
    for name in (str(tmp_path), str(tmp_path / "missing" / "trace.json")):
        with pytest.raises(ConfigError, match="H2O_BENCH_TRACE: expected a file in an existing folder"):
            trace_file({"H2O_BENCH_TRACE": name})
