"""What happens to the KV cache from token to token, for pictures: a pass of its own after the timed runs, never inside them.

H2O_BENCH_TRACE names the file. docs/engine.md has its schema.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import greedy_token
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.timed_run import kv_fingerprint, kv_shape

TRACE_VARIABLE = "H2O_BENCH_TRACE"
SCHEMA_VERSION = 1
MOST_POINTS = 512
"""Moments of a run that are written down; of a longer run evenly spaced ones, the first and the last among them."""
MOST_RUNS = 8192
"""Runs of kept positions that are written down; layers beyond it have None. Both keep a file of two instances below 200 KB."""

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Moment:
    """KV bytes when ``tokens`` have been seen; full: 16 bits for each of them, in all layers and in those of H2O's range."""

    tokens: int
    full_bytes: int
    resident_bytes: int
    range_full_bytes: int
    range_resident_bytes: int


@dataclass(frozen=True)
class RunTrace:
    """``decode``: after the prompt and after each decoded token. ``end``: after the turn was tidied up.

    ``kept``: by layer, runs [start, end) of the positions kept at the end; None where they were too many to write down.
    ``fingerprint``: as that of a `timed_run.TimedRun`; where they differ, the pictures are not of what was timed.
    """

    range_layers: tuple[int, int]
    decode: tuple[Moment, ...]
    end: Moment
    kept: tuple[Runs | None, ...]
    fingerprint: str


def trace_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file named by H2O_BENCH_TRACE, None when unset. Raises ConfigError for one in a folder that does not exist."""
    name = environment.get(TRACE_VARIABLE)
    if not name:
        return None
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"environment: {TRACE_VARIABLE}: expected a file in an existing folder, got {name!r}; make the folder first")
    return path


def trace_run(model: Model, policy: KvPolicy, prompt_ids: Sequence[int], n_gen: int) -> RunTrace:
    """Prefill and decode as `timed_run.run_once` does, looking at the cache between tokens. Raises EngineError, CodecError."""
    shape = kv_shape(model)
    layers = range(policy.layer_start, min(policy.layer_end + 1, shape.n_layer))

    def moment(cache: KvCache) -> Moment:
        full = cache.n_seen * shape.bytes_per_token
        resident, of_range = cache.total_resident_bytes, cache.resident_bytes(layers)
        return Moment(cache.n_seen, full * shape.n_layer, resident, full * len(layers), of_range)

    with KvCache(shape, policy) as cache:
        logits = prefill(model, prompt_ids, cache)
        decode, tokens = [moment(cache)], []
        for _ in range(n_gen):
            tokens.append(greedy_token(logits))
            logits = decode_one_token(model, tokens[-1], cache)
            decode.append(moment(cache))
        cache.finish()
        return RunTrace(
            (layers.start, layers.stop),
            _thinned(decode),
            moment(cache),
            written_down(tuple(runs_of(cache.positions(layer).tolist()) for layer in range(shape.n_layer))),
            kv_fingerprint(cache, shape.n_layer, tokens),
        )


def runs_of(positions: Sequence[int]) -> Runs:
    """Sorted positions as runs: [0, 1, 2, 7] -> ((0, 3), (7, 8))."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1] = (runs[-1][0], position + 1)
        else:
            runs.append((position, position + 1))
    return tuple(runs)


def instance_document(
    n_prompt: int, n_gen: int, trace: RunTrace, agrees: bool, kl_by_position: Mapping[str, Sequence[float]] | None
) -> dict[str, Any]:
    """One element of ``instances``. ``agrees``: with the timed runs; ``kl_by_position`` None: quality was not measured."""
    names = ("tokens", "full_bytes", "resident_bytes", "range_full_bytes", "range_resident_bytes")
    return {
        "prompt_tokens": n_prompt,
        "gen_tokens": n_gen,
        "agrees": agrees,
        "range_layers": list(trace.range_layers),
        "decode": {name: [getattr(moment, name) for moment in trace.decode] for name in names},
        "end": {name: getattr(trace.end, name) for name in names},
        "kept": [None if runs is None else [list(run) for run in runs] for runs in trace.kept],
        "kl_by_position": None
        if kl_by_position is None
        else {name: [_short(value) for value in values] for name, values in kl_by_position.items()},
    }


def trace_document(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "instances": list(instances)}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _thinned(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    if len(moments) <= MOST_POINTS:
        return tuple(moments)
    last = len(moments) - 1
    return tuple(moments[index * last // (MOST_POINTS - 1)] for index in range(MOST_POINTS))


def written_down(layers: tuple[Runs, ...]) -> tuple[Runs | None, ...]:
    """Whole layers, from the first on, as far as MOST_RUNS goes."""
    left, written = MOST_RUNS, []
    for runs in layers:
        left -= len(runs)
        written.append(runs if left >= 0 else None)
    return tuple(written)
