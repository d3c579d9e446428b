"""What an instance gave, as the values of the table's columns; the table and the JSON both read it from here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from h2o_gate_plugin.bench_columns import (
    ASYNC_COLUMNS,
    COLUMNS,
    EVIDENCE_COLUMNS,
    H2O_COLUMNS,
    INSTANCE_COLUMNS,
    LOADING_COLUMNS,
    RUN_COLUMNS,
    TEST_COLUMNS,
    Column,
)
from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.runtime.instances import EngineSettings, Instance
from h2o_gate_plugin.runtime.prompts import PromptKind
from h2o_gate_plugin.runtime.quality import Quality, Role
from h2o_gate_plugin.runtime.timed_run import TimedRun
from h2o_gate_plugin.runtime.trace import RunTrace

Samples = tuple[float, ...]
Value = str | float | Samples | tuple[Samples, Samples] | None
"""Text; one number; one number per repeat; prefill and decode tok/s per repeat; None = not measured."""

BYTES_PER_MIB = 1024 * 1024
LEVEL_WORDS = ("Normal", "High", "Low")
"""How the contract's 0, 1, 2 of precision and memory are printed."""


@dataclass(frozen=True)
class InstanceResult:
    """``runs`` without the warm-up; ``quality`` None for the kinds of -kv false, or where it was not wanted.

    ``turns_mismatch_rows``: as `turns.turns_mismatch_rows`; None where quality is, where KV features are off or the context is too short.
    ``kl_masked``: as `masked.masked_kl`; None likewise. ``trace``: None where none was asked for.
    """

    instance: Instance
    model_name: str
    weights_bytes: int
    loading_s: Samples
    prompt_kind: PromptKind
    runs: tuple[TimedRun, ...]
    quality: Quality[Role] | None
    turns_mismatch_rows: int | None
    kl_masked: float | None = None
    trace: RunTrace | None = None

    @property
    def prefill_tps(self) -> Samples:
        return _speeds(self.instance.n_prompt, [run.prefill_s for run in self.runs])

    @property
    def decode_tps(self) -> Samples:
        return tuple(speed for run in self.runs for speed in _speeds(run.decode_tokens, [run.decode_s]))

    @property
    def total_tps(self) -> Samples:
        """Prompt and decoded tokens over the whole time, for the rows of -kv false."""
        n_prompt, n_gen = self.instance.n_prompt, self.instance.n_gen
        seconds = [(run.prefill_s if n_prompt else 0.0) + (run.decode_s if n_gen else 0.0) for run in self.runs]
        return _speeds(n_prompt + n_gen, seconds)


OPTIONAL_DEFAULTS: Mapping[str, Callable[[EngineSettings], bool]] = {
    "memory": lambda settings: settings.memory == 2,
    "dynamicOption": lambda settings: settings.dynamic_option == 0,
    "divisionRatioSme2Neon": lambda settings: settings.division_ratio == 41,
    "attentionOption": lambda settings: settings.quant_attention == 0,
    "smeCoreNum": lambda settings: settings.sme_core_num == 2,
    "mmap": lambda settings: not settings.mmap,
}
"""An optional column is printed when one instance of the call is off its default."""

_OF_REPORT: Mapping[str, Callable[[KvReport], float | None]] = {
    "h2o_keep": lambda report: report.keep_ratio,
    "h2o_lossy": lambda report: report.lossy_ratio,
    "h2o_lossless": lambda report: report.lossless_ratio,
    "h2o_target_keep_effective": lambda report: report.effective_keep,
    "h2o_floor_keep": lambda report: report.floor_keep,
    "h2o_quantized_keep": lambda report: report.quantized_keep,
    "h2o_evict_us": lambda report: report.evict_us,
    "h2o_codec_us": lambda report: report.codec_us,
    "h2o_lossless_raw_mb": lambda report: report.raw_bytes / BYTES_PER_MIB,
    "h2o_lossless_comp_mb": lambda report: report.comp_bytes / BYTES_PER_MIB,
    "h2o_lossless_comp_us": lambda report: report.comp_us,
    "h2o_lossless_decomp_us": lambda report: report.decomp_us,
    "h2o_lossless_queue_peak": lambda report: report.queue_peak,
    "h2o_lossless_fallback": lambda report: report.fallback,
    "h2o_lossless_backpressure_skip": lambda report: report.backpressure_skip,
    "h2o_lossless_async_queue_peak": lambda report: report.async_queue_peak,
    "h2o_lossless_async_wait_us": lambda report: report.async_wait_us,
    "h2o_lossless_decode_cache_hit": lambda report: report.cache_hit,
    "h2o_lossless_decode_cache_miss": lambda report: report.cache_miss,
    "kv_full_mb": lambda report: report.full_bytes / BYTES_PER_MIB,
    "kv_resident_mb": lambda report: report.resident_bytes / BYTES_PER_MIB,
    "kv_peak_mb": lambda report: report.peak_bytes / BYTES_PER_MIB,
    "kv_range_full_mb": lambda report: report.range_full_bytes / BYTES_PER_MIB,
    "kv_range_resident_mb": lambda report: report.range_resident_bytes / BYTES_PER_MIB,
    "kv_range_decode_mb": lambda report: report.range_decoding_bytes / BYTES_PER_MIB,
    "lossless_coverage": lambda report: report.coverage,
    "kv_mismatch_blocks": lambda report: report.mismatch_blocks,
    "lossless_front_mb": lambda report: _mib(report.encoded_front_bytes),
    "lossless_kept_mb": lambda report: _mib(report.encoded_kept_bytes),
}

_OF_QUALITY: Mapping[str, tuple[Role, str]] = {
    "nll_full": ("full", "nll"),
    "nll_kv": ("kv", "nll"),
    "kl_mean": ("kv", "kl_mean"),
    "top1_agree": ("kv", "top1_agree"),
    "recall_full": ("full", "recall"),
    "recall_kv": ("kv", "recall"),
    "recall_first_full": ("full", "recall_first"),
    "recall_first_kv": ("kv", "recall_first"),
    "kl_mean_random": ("random", "kl_mean"),
    "kl_mean_window": ("window", "kl_mean"),
    "recall_random": ("random", "recall"),
    "recall_window": ("window", "recall"),
}
"""Column → whose reading, and which figure of it."""


def columns_of(instances: Sequence[Instance], kv_cache: bool, loading_time: bool) -> tuple[Column, ...]:
    """The header of a call, in the contract's order."""
    shown = tuple(
        column
        for column in INSTANCE_COLUMNS
        if column.group == "instance" or any(not OPTIONAL_DEFAULTS[column.name](instance.settings) for instance in instances)
    )
    measured = (*RUN_COLUMNS, *H2O_COLUMNS, *ASYNC_COLUMNS, *EVIDENCE_COLUMNS) if kv_cache else TEST_COLUMNS
    return (*shown, *measured, *(LOADING_COLUMNS if loading_time else ()))


def values_of(result: InstanceResult) -> dict[str, Value]:
    """A value for every column that the result's kind can have, by column name.

    Raises EngineError when a speed is not a finite number.
    """
    values = _instance_values(result) | {"loadingTime(s)": result.loading_s}
    if result.instance.kind != "prompt_and_decode":
        return values | {"test": _test_name(result.instance), "t/s": result.total_tps}
    values |= {
        "llm_demo": f"prompt={result.instance.n_prompt}<br>decode={result.instance.n_gen}",
        "speed(tok/s)": (result.prefill_tps, result.decode_tps),
    }
    for name, read in _OF_REPORT.items():
        samples = [read(run.report) for run in result.runs]
        measured = tuple(float(sample) for sample in samples if sample is not None)
        one_number = COLUMNS[name].form == "number"  # follows from the token counts, the same in every repeat
        values[name] = None if len(measured) < len(samples) else measured[0] if one_number else measured
    values["decode_tokens"] = tuple(float(run.decode_tokens) for run in result.runs)
    values["kept_tokens"] = ",".join(str(count) for count in result.runs[0].report.kept_tokens)  # repeats that differ are refused
    values["turns_mismatch_rows"] = None if result.turns_mismatch_rows is None else float(result.turns_mismatch_rows)
    values["kl_masked"] = result.kl_masked
    return values | _quality_values(result)


def mean_and_sd(samples: Samples) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 for a single repeat, as the C++ program prints it."""
    return statistics.fmean(samples), statistics.stdev(samples) if len(samples) > 1 else 0.0


def _instance_values(result: InstanceResult) -> dict[str, Value]:
    settings = result.instance.settings
    return {
        "model": result.model_name,
        "modelSize": float(result.weights_bytes),
        "backend": settings.backend.upper(),
        "threads": float(settings.threads),
        "precision": LEVEL_WORDS[settings.precision],
        "memory": LEVEL_WORDS[settings.memory],
        "dynamicOption": float(settings.dynamic_option),
        "divisionRatioSme2Neon": float(settings.division_ratio),
        "attentionOption": float(settings.quant_attention),
        "smeCoreNum": float(settings.sme_core_num),
        "mmap": "true" if settings.mmap else "false",
    }


def _quality_values(result: InstanceResult) -> dict[str, Value]:
    quality = result.quality
    values: dict[str, Value] = {"prompt_kind": result.prompt_kind}
    values["quality_prompts"] = float(quality.prompts) if quality and quality.prompts else None
    values["recall_answers"] = float(quality.answers) if quality and quality.answers else None
    for name, (role, figure) in _OF_QUALITY.items():
        reading = None if quality is None else quality.readings.get(role)
        values[name] = None if reading is None else getattr(reading, figure)
    return values


def _mib(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / BYTES_PER_MIB


def _test_name(instance: Instance) -> str:
    prompt = [f"pp{instance.n_prompt}"] if instance.n_prompt else []
    decode = [f"tg{instance.n_gen}"] if instance.n_gen else []
    return "+".join(prompt + decode)


def _speeds(n_tokens: int, seconds: Sequence[float]) -> Samples:
    for value in seconds:
        if not (math.isfinite(value) and value > 0):
            raise EngineError(f"speed: expected a time > 0 (s) for {n_tokens} tokens, got {value!r}; run it again")
    return tuple(n_tokens / value for value in seconds)
