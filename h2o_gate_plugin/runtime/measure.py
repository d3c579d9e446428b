"""Run one instance: warm-up, timed repeats, and the untimed quality pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import engine_values
from h2o_gate_plugin.runtime.bench_config import BenchConfig, read_bench_config
from h2o_gate_plugin.runtime.checkpoint import Model, load_model
from h2o_gate_plugin.runtime.instances import Instance
from h2o_gate_plugin.runtime.kv_dump import write_kv_dump
from h2o_gate_plugin.runtime.masked import MASKED_TOKENS, masked_kl
from h2o_gate_plugin.runtime.prompts import PromptKind, PromptSource
from h2o_gate_plugin.runtime.quality import (
    MAX_TEXT_TOKENS,
    N_PLAIN,
    N_PLANTED,
    Quality,
    Role,
    compared_policies,
    measure_quality,
    quality_wanted,
)
from h2o_gate_plugin.runtime.results import InstanceResult
from h2o_gate_plugin.runtime.timed_run import check_repeats, kv_shape, run_once
from h2o_gate_plugin.runtime.tokenizer import Tokenizer
from h2o_gate_plugin.runtime.trace import trace_run
from h2o_gate_plugin.runtime.turns import FIRST_DECODE_TOKENS, SECOND_TURN_TOKENS, turns_mismatch_rows


@dataclass(frozen=True)
class LoadedModel:
    """``loading_s``: one time per load that was measured; ``quality``: whether it is to be measured."""

    config: BenchConfig
    model: Model
    policy: KvPolicy
    full_policy: KvPolicy
    prompts: PromptSource
    quality: bool
    loading_s: tuple[float, ...]


def load(config_path: Path, kind: PromptKind, n_loads: int, prompt_file: Path | None = None) -> LoadedModel:
    """Read the bench config and all that it names, the prompt file, and H2O_BENCH_QUALITY. Raises ConfigError."""
    quality = quality_wanted()
    config = read_bench_config(config_path)
    loading_s: list[float] = []
    for _ in range(n_loads):
        started = time.perf_counter()
        model = load_model(config.model_folder)
        tokenizer = Tokenizer(config.model_folder, model.config.vocab_size)
        loading_s.append(time.perf_counter() - started)
    n_layer = model.config.n_layer
    return LoadedModel(
        config=config,
        model=model,
        policy=KvPolicy.from_values(config.kv_values, str(config_path)).resolved(n_layer, str(config_path)),
        full_policy=KvPolicy.from_values(engine_values({}, "engine defaults")).resolved(n_layer),
        prompts=PromptSource(tokenizer, kind, file=prompt_file),
        quality=quality,
        loading_s=tuple(loading_s),
    )


def check_instance(instance: Instance, loaded: LoadedModel) -> None:
    """Raises ConfigError for what this engine cannot run: backend, quantised attention, more tokens than the context."""
    settings, context = instance.settings, loaded.model.config.context_tokens
    if instance.n_prompt + instance.n_gen > context:
        raise ConfigError(
            f"{settings.model}: -p {instance.n_prompt} -n {instance.n_gen}: expected at most {context} tokens together "
            f"(max_position_embeddings), got {instance.n_prompt + instance.n_gen}; ask for fewer"
        )


def measure_instance(loaded: LoadedModel, instance: Instance, repeat: int, dump: DumpWriter | None, traced: bool = False) -> InstanceResult:
    """``repeat`` timed runs after one warm-up, each on a fresh cache; quality only for -kv true, and where it is wanted.

    ``traced``: one more run, after everything that is timed. Raises EngineError for repeats that differ, non-finite logits or speed.
    """
    model, n_prompt, n_gen = loaded.model, instance.n_prompt, instance.n_gen
    prompt = loaded.prompts.measured_prompt(n_prompt or 1, n_gen + 1)  # a decode-only row starts from one token
    with blas_threads(instance.settings.threads):
        runs = tuple(run_once(model, loaded.policy, prompt.ids, n_gen) for _ in range(repeat + 1))
        check_repeats(runs, f"{loaded.config.path}: -p {n_prompt} -n {n_gen}")
        untimed = loaded.quality and instance.kind == "prompt_and_decode"
        quality = _quality(loaded, instance) if untimed else None
        mismatch_rows = _turns_mismatch_rows(loaded, n_prompt) if untimed and loaded.policy.active else None
        divergence = _kl_masked(loaded, n_prompt) if untimed and loaded.policy.active else None
        if dump is not None:
            with _open(loaded, loaded.policy) as cache:
                write_kv_dump(dump, model, cache, prompt.ids, prompt.continuation[:n_gen])
        trace = trace_run(model, loaded.policy, prompt.ids, n_gen) if traced else None
    return InstanceResult(
        instance=instance,
        model_name=loaded.config.model_folder.name,
        weights_bytes=model.weights_bytes,
        loading_s=loaded.loading_s,
        prompt_kind=prompt.kind,
        runs=runs[1:],
        quality=quality,
        turns_mismatch_rows=mismatch_rows,
        kl_masked=divergence,
        trace=trace,
    )


@contextmanager
def blas_threads(n_threads: int) -> Iterator[None]:
    """Pin numpy's BLAS to ``n_threads``. Raises ConfigError when it does not follow."""
    with threadpool_limits(limits=n_threads, user_api="blas"):
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        if not pools or set(pools) != {n_threads}:
            raise ConfigError(f"-t {n_threads}: expected numpy's BLAS to take {n_threads} threads, got {pools}; ask for fewer")
        yield


def _quality(loaded: LoadedModel, instance: Instance) -> Quality[Role]:
    n_prompt, n_continuation = instance.n_prompt, min(instance.n_gen, MAX_TEXT_TOKENS) + 1
    plain = loaded.prompts.plain_prompts(n_prompt, n_continuation, N_PLAIN)
    planted = [loaded.prompts.planted_prompt(n_prompt, number) for number in range(N_PLANTED)]
    context = loaded.model.config.context_tokens
    quality = measure_quality(
        loaded.model,
        plain,
        [asked for asked in planted if asked is not None and len(asked.ids) + len(asked.questions) <= context],
        compared_policies(loaded.policy, loaded.full_policy),
        "full",
        lambda policy: _open(loaded, policy),
    )
    if "kv" in quality.readings:
        return quality
    return replace(quality, readings={**quality.readings, "kv": quality.readings["full"]})  # KV features are off: one and the same


def _turns_mismatch_rows(loaded: LoadedModel, n_prompt: int) -> int | None:
    if n_prompt + sum(SECOND_TURN_TOKENS) + FIRST_DECODE_TOKENS > loaded.model.config.context_tokens:
        return None
    first = loaded.prompts.prompt(n_prompt, FIRST_DECODE_TOKENS)
    second = loaded.prompts.prompt(*SECOND_TURN_TOKENS)
    return turns_mismatch_rows(loaded.model, first, second, loaded.policy, lambda policy: _open(loaded, policy))


def _kl_masked(loaded: LoadedModel, n_prompt: int) -> float | None:
    if n_prompt + MASKED_TOKENS > loaded.model.config.context_tokens:
        return None
    return masked_kl(loaded.model, loaded.prompts.prompt(n_prompt, MASKED_TOKENS), _open(loaded, loaded.policy))


def _open(loaded: LoadedModel, policy: KvPolicy) -> KvCache:
    return KvCache(kv_shape(loaded.model), policy)
