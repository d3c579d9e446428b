"""What packing costs in decode time and gives back in memory, preset by preset; one process, one thread.

Sixteen tokens at a time are decoded on a cache under each policy in turn, so that a neighbour's load falls on all of them alike, and
timed by the CPU time of the calling thread: a worker's time is not in it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from time import thread_time

import numpy as np
from engine_compare import print_line, print_title
from engine_runs import BLOCK_TOKENS, N_DECODE, REFERENCE, full_kv

from h2o_gate_plugin.bench.preset import expand, load_preset
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import KvValue
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.generate import greedy_token
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.ops import F32
from h2o_gate_plugin.runtime.timed_run import kv_shape, run_once

PROMPTS = (512, 1024)
STEP, INTERVAL = "kv_lossless_store_grouped_step_tokens", "kv_lossless_kept_sample_token_interval"
BLOCKS = "kv_lossless_decode_cache_blocks"
LINES: dict[str, tuple[str, dict[str, KvValue]]] = {
    "H2O alone": ("target_core_gate_v6", {"kv_lossless_enable": False}),
    "target_core_gate_v6": ("target_core_gate_v6", {}),
    "target_full_coverage_v6": ("target_full_coverage_v6", {}),
    "target_store_v6": ("target_store_v6", {}),
    "target_store_v6, every 4th token": ("target_store_v6", {INTERVAL: 4}),
    "target_store_v6, every token": ("target_store_v6", {INTERVAL: 1}),
    "target_store_v6, every token, no decoded copies": ("target_store_v6", {INTERVAL: 1, BLOCKS: 0}),
    "target_store_memory_v6": ("target_store_memory_v6", {}),
    "target_store_memory_v6, every token": ("target_store_memory_v6", {INTERVAL: 1}),
}
OFF, OFF_AGAIN = "KV off", "KV off against itself"
HEADER = ("policy", "prompt", "drop", "10 to 90 %", "ratio while decoding", "after the turn", "peak / off's", "coverage", "front, kept MiB")


class Side:
    """One policy's cache in a round."""

    def __init__(self, model: Model, logits: F32, cache: KvCache, policy: KvPolicy) -> None:
        self._model, self._logits, self._cache = model, logits, cache.fork(policy)
        self.cpu_s = 0.0
        self.resident_bytes: list[int] = []

    def decode_block(self, in_range: range) -> None:
        for _ in range(BLOCK_TOKENS):
            started = thread_time()
            self._logits = decode_one_token(self._model, greedy_token(self._logits), self._cache)
            self.cpu_s += thread_time() - started
            self.resident_bytes.append(self._cache.resident_bytes(in_range))

    def finish(self) -> None:
        with self._cache:
            self._cache.finish()


def measure(model: Model, ids: tuple[int, ...], policies: dict[str, KvPolicy], n_round: int) -> None:
    """Print a line for every policy but the two that evict nothing."""
    reports: dict[str, KvReport] = {name: run_once(model, policy, ids, N_DECODE).report for name, policy in policies.items()}
    seeding = policies["H2O alone"].resolved(model.config.n_layer)
    in_range = range(seeding.layer_start, seeding.layer_end + 1)
    full_bytes = [(len(ids) + token + 1) * len(in_range) * kv_shape(model).bytes_per_token for token in range(N_DECODE)]
    cpu_s: dict[str, list[float]] = {name: [] for name in policies}
    decoding: dict[str, float] = {}
    with KvCache(kv_shape(model), seeding) as cache:
        logits = prefill(model, ids, cache)
        for number in range(n_round + 1):
            sides = {name: Side(model, logits, cache, policy) for name, policy in policies.items()}
            order = list(sides)
            for block in range(N_DECODE // BLOCK_TOKENS):
                first = (block + number) % len(order)
                for name in order[first:] + order[:first]:
                    sides[name].decode_block(in_range)
            for name, side in sides.items():
                side.finish()
                decoding[name] = sum(full_bytes) / sum(side.resident_bytes)
                if number:  # the first round warms up
                    cpu_s[name].append(side.cpu_s)
    for name, report in reports.items():
        if name == OFF:
            continue
        drops = 1.0 - np.array(cpu_s[OFF]) / np.array(cpu_s[name])
        low, high = np.percentile(drops, (10, 90))
        print_line(
            name,
            f"{len(ids):,}",
            f"**{np.median(drops):+.1%}**",
            f"{low:+.1%} … {high:+.1%}",
            f"{decoding[name]:.2f}x",
            f"**{report.range_full_bytes / report.range_resident_bytes:.2f}x**",
            f"{report.peak_bytes / reports[OFF].peak_bytes:.3f}",
            "n/a" if report.coverage is None else f"{report.coverage:.0%}",
            ", ".join("n/a" if n is None else f"{n / 2**20:.2f}" for n in (report.encoded_front_bytes, report.encoded_kept_bytes)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds of 128 tokens on every cache (7)")
    n_round = parser.parse_args().repeats
    loaded = load(Path(REFERENCE) / "bench_config.json", "text", 1)
    print_title("Packing: decode time against KV off, KV full / resident of the layers in range", HEADER)
    with blas_threads(1):
        for n_prompt in PROMPTS:
            policies = {OFF: full_kv(), OFF_AGAIN: full_kv()}
            for name, (preset, changed) in LINES.items():
                (config,) = (config for config in expand(load_preset(preset), changed) if config.prompt == n_prompt)
                policies[name] = replace(KvPolicy.from_values(config.values), log_stats=False)
            measure(loaded.model, loaded.prompts.prompt(n_prompt, N_DECODE + 1).ids, policies, n_round)


if __name__ == "__main__":
    main()
