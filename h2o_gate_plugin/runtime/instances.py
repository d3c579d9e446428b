"""The runs that one command line asks for, in the contract's sweep order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from h2o_gate_plugin.runtime.arguments import Arguments

Kind = Literal["prompt_and_decode", "prefill", "decode", "both"]


@dataclass(frozen=True)
class EngineSettings:
    """The instance columns and knobs; of these, only the model and the threads change what this engine does."""

    model: Path
    backend: str
    precision: int
    memory: int
    power: int
    threads: int
    dynamic_option: int
    division_ratio: int
    quant_attention: int
    sme_core_num: int
    mmap: bool


@dataclass(frozen=True)
class Instance:
    """One table row. ``prompt_and_decode`` is the row of -kv true; the other kinds are -kv false's pp, tg and pg."""

    settings: EngineSettings
    kind: Kind
    n_prompt: int
    n_gen: int


def sweep(arguments: Arguments) -> tuple[Instance, ...]:
    """Every instance, outer to inner: model, backend, precision, memory, power, threads, knobs, then the token counts."""
    return tuple(
        Instance(settings, kind, n_prompt, n_gen) for settings in _settings(arguments) for kind, n_prompt, n_gen in _token_counts(arguments)
    )


def _settings(arguments: Arguments) -> Iterator[EngineSettings]:
    return (
        EngineSettings(model, backend, precision, memory, power, threads, dynamic_option, division_ratio, quantised, sme, mmap)
        for model in arguments.models
        for backend in arguments.backends
        for precision in arguments.precisions
        for memory in arguments.memories
        for power in arguments.powers
        for threads in arguments.threads
        for dynamic_option in arguments.dynamic_options
        for division_ratio in arguments.division_ratios
        for quantised in arguments.quant_attentions
        for sme in arguments.sme_core_nums
        for mmap in arguments.mmaps
    )


def _token_counts(arguments: Arguments) -> Iterator[tuple[Kind, int, int]]:
    if arguments.kv_cache:
        for n_prompt, n_gen in product(arguments.prompts, arguments.gens):
            if n_prompt > 0 and n_gen > 0:
                yield "prompt_and_decode", n_prompt, n_gen
        return
    for n_prompt in arguments.prompts:
        if n_prompt > 0:
            yield "prefill", n_prompt, 0
    for n_gen in arguments.gens:
        if n_gen > 0:
            yield "decode", 0, n_gen
    for n_prompt, n_gen in arguments.prompt_gens:
        if n_prompt > 0 and n_gen > 0:
            yield "both", n_prompt, n_gen
        elif n_prompt > 0:
            yield "prefill", n_prompt, 0
        elif n_gen > 0:
            yield "decode", 0, n_gen
