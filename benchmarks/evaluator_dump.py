"""A KV dump of the reference model: held-out text at different offsets, one run id each, all layers, 4 KiB a token."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine_runs import REFERENCE, full_kv

from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.dump import DumpWriter, read_dump
from h2o_gate_plugin.runtime.kv_dump import write_kv_dump
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.timed_run import kv_shape

N_PROMPT, N_DECODE = 1984, 64
"""Together the model's context; a prefill entry and a decode entry per layer."""


def reference_dump(folder: Path, n_run: int) -> Path:
    """The folder of ``n_run`` prompts, written unless it is there. A dump that was cut short is written again."""
    dump = folder / f"dump_{n_run}x{N_PROMPT + N_DECODE}"
    if dump.is_dir():
        return dump
    partial = folder / f"{dump.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    loaded = load(REFERENCE / "bench_config.json", "text", 1)
    with blas_threads(1):
        for number in range(n_run):
            prompt = loaded.prompts.prompt(N_PROMPT, N_DECODE, number)
            with KvCache(kv_shape(loaded.model), full_kv()) as cache:
                write_kv_dump(DumpWriter(partial, f"prompt_{number:02}"), loaded.model, cache, prompt.ids, prompt.continuation)
    partial.rename(dump)
    return dump


def dump_bytes(dump: Path) -> int:
    """Bytes of K and V as fp16."""
    return sum(entry.seq_len * entry.kv_heads * entry.head_dim * 4 for entry in read_dump(dump).entries)
