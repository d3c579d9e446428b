"""Decode against the memory floor, and what eviction and the lossless store cost or gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
from engine_compare import Goal, Side, drop_line, interleave, interleave_blocks, median_interval, percent, print_line, print_title, times
from engine_runs import BLOCK_TOKENS, N_DECODE, Bench, full_kv, h2o_alone, prefill_side, prefilled, suite_policy

from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.measure import blas_threads
from h2o_gate_plugin.runtime.timed_run import kv_shape

PROMPTS = (512, 1024)
FLOOR_GOAL = Goal(0.5, at_least=True)
POLICY_GOAL = Goal(0.03, at_least=False)
DROP_GOALS = {512: Goal(0.05, at_least=False), 1024: Goal(0.0, at_least=False)}
STORE_DROP_GOAL = Goal(0.05, at_least=False)
MEMORY_GOAL = Goal(3.3, at_least=True)
MEMORY_STRETCH, STRETCH_PROMPT = Goal(3.9, at_least=True, name="stretch"), 1024
MEMORY_HEADER = ("policy", "prompt", "KV full / resident", "goal", "coverage", "mismatch", "fallback")
FLOOR_HEADER = ("weights as", "prompt", "BLAS threads", "MB a token", "copy, GB/s", "floor, tok/s", "tok/s", "of the floor", "goal")


def floor(bench: Bench) -> None:
    """Decode with KV features off against reading its bytes at the speed of a copy."""
    print_title("Decode against the memory floor", FLOOR_HEADER)
    for n_threads in bench.threads:
        for n_prompt in PROMPTS:
            with blas_threads(n_threads), prefilled(bench.model, bench.prompt(n_prompt)) as decode_under:
                for name, weight_bytes in weight_bytes_per_token(bench.model).items():
                    n_bytes = weight_bytes + kv_bytes_per_token(bench.model, n_prompt)
                    compared = interleave(decode_under(full_kv()), copy_side(n_bytes), bench.n_round, N_DECODE)
                    shares = [ratio / 2 for ratio in compared.ratios]  # a copy moves each byte twice, once in and once out
                    share = float(np.median(shares))
                    print_line(
                        name,
                        f"{n_prompt:,}",
                        n_threads,
                        f"{n_bytes / 1e6:.1f}",
                        f"{2 * n_bytes * compared.peer_tps / 1e9:.1f}",
                        f"{2 * compared.peer_tps:,.0f}",
                        f"{compared.own_tps:,.0f}",
                        f"**{percent(share)}**",
                        FLOOR_GOAL.cell(share, percent, median_interval(shares)),
                    )


def weight_bytes_per_token(model: Model) -> dict[str, int]:
    """Every matrix and vector once; of a tied embedding the one read as the head, of any other one row."""
    parts = [part for layer in model.layers for part in vars(layer).values() if part is not None]
    parts += [model.norm, model.head, model.embedding[:1]]
    return {"held (16-bit words)": sum(part.nbytes for part in parts), "float32": sum(4 * part.size for part in parts)}


def kv_bytes_per_token(model: Model, n_prompt: int) -> int:
    """Bytes of the kept K and V that a decoded token attends to, mean over the run."""
    shape = kv_shape(model)
    return round((n_prompt + (N_DECODE + 1) / 2) * shape.n_layer * shape.bytes_per_token)


def copy_side(n_bytes: int) -> Side:
    source, target = np.ones(n_bytes, dtype=np.uint8), np.zeros(n_bytes, dtype=np.uint8)

    def run() -> float:
        started = perf_counter()
        for _ in range(N_DECODE):
            np.copyto(target, source)
        return perf_counter() - started

    return run


def policy(bench: Bench) -> None:
    """What scores and plans cost while nothing is evicted."""
    zero_evictions = suite_policy(kv_lossless_enable=False, kv_h2o_target_mode="adaptive", kv_h2o_target_lossy_ratio=1.0)
    print_title("Cost of the policy without evictions")
    for n_threads in bench.threads:
        for n_prompt in PROMPTS:
            ids = bench.prompt(n_prompt)
            with blas_threads(n_threads), prefilled(bench.model, ids) as decode_under:
                off = decode_under(full_kv())
                same = interleave_blocks(decode_under(full_kv()).blocks, off.blocks, bench.n_round, BLOCK_TOKENS)
                print(drop_line("noise: off against itself", n_prompt, n_threads, same, None), flush=True)
                decode = interleave_blocks(decode_under(zero_evictions).blocks, off.blocks, bench.n_round, BLOCK_TOKENS)
                print(drop_line("decode", n_prompt, n_threads, decode, POLICY_GOAL), flush=True)
                on, off_again = (prefill_side(bench.model, ids, used) for used in (zero_evictions, full_kv()))
                prompt = interleave(on, off_again, bench.n_round, n_prompt)
                print(drop_line("prefill", n_prompt, n_threads, prompt, POLICY_GOAL), flush=True)


def joint(bench: Bench) -> None:
    """Decode drop of eviction and store together, and the memory that they give back."""
    reports: dict[tuple[str, int], KvReport] = {}
    print_title("Eviction and the lossless store")
    for n_threads in bench.threads:
        for n_prompt in PROMPTS:
            with blas_threads(n_threads), prefilled(bench.model, bench.prompt(n_prompt)) as decode_under:
                off = decode_under(full_kv())
                same = interleave(decode_under(full_kv()), off, bench.n_round, N_DECODE)
                print(drop_line("noise: off against itself", n_prompt, n_threads, same, None), flush=True)
                for name, (used, goals) in joint_policies().items():
                    on = decode_under(used)
                    compared = interleave(on, off, bench.n_round, N_DECODE)
                    print(drop_line(name, n_prompt, n_threads, compared, goals.get(n_prompt)), flush=True)
                    reports[name, n_prompt] = on.report
    print_title("KV memory of the layers in H2O's range at the end of a run", MEMORY_HEADER)
    for (name, n_prompt), report in reports.items():
        print_line(name, f"{n_prompt:,}", *memory_cells(report, memory_goals(name, n_prompt)))


def joint_policies() -> Mapping[str, tuple[KvPolicy, Mapping[int, Goal]]]:
    """Name → policy and its drop goal by prompt length; none: reported as it is."""
    store_goals = dict.fromkeys(PROMPTS, STORE_DROP_GOAL)
    policies: dict[str, tuple[KvPolicy, Mapping[int, Goal]]] = {
        "H2O alone": (h2o_alone(), {}),
        "full": (suite_policy(kv_lossless_runtime_mode="full"), DROP_GOALS),
    }
    for blocks in (64, 0):
        one_layer = suite_policy(kv_lossless_runtime_mode="store", kv_lossless_decode_cache_blocks=blocks)
        all_layers = suite_policy(
            kv_lossless_runtime_mode="store", kv_lossless_decode_cache_blocks=blocks, kv_lossless_kept_sample_layers=0
        )
        policies[f"store, cache {blocks}"] = (one_layer, store_goals)
        policies[f"store, cache {blocks}, every kept layer"] = (all_layers, {})
    return policies


def memory_goals(name: str, n_prompt: int) -> tuple[Goal, ...]:
    """Store mode alone has goals: the others keep every kept token raw."""
    if not name.startswith("store"):
        return ()
    return (MEMORY_GOAL, MEMORY_STRETCH) if n_prompt == STRETCH_PROMPT else (MEMORY_GOAL,)


def memory_cells(report: KvReport, goals: Sequence[Goal]) -> tuple[str, ...]:
    ratio = report.range_full_bytes / report.range_resident_bytes
    return (
        f"**{times(ratio)}**",
        ", ".join(goal.cell(ratio, times) for goal in goals) or "none",
        "n/a" if report.coverage is None else percent(report.coverage),
        str(report.mismatch_blocks),
        str(report.fallback),
    )
