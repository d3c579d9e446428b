"""The JSON of ``llm_bench -j``, by the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h2o_gate_plugin.bench_columns import ASYNC_COLUMNS, EVIDENCE_COLUMNS, H2O_COLUMNS
from h2o_gate_plugin.runtime.results import BYTES_PER_MIB, InstanceResult, Samples, Value, mean_and_sd

BYTES_PER_GIB = 1024 * BYTES_PER_MIB
TYPES = {"prompt_and_decode": "prefill_and_decode", "both": "prefill_and_decode", "prefill": "prefill", "decode": "decode"}


def json_document(results: Sequence[tuple[InstanceResult, Mapping[str, Value]]]) -> dict[str, Any]:
    """One object; its settings are those of the first instance. In a sweep over settings each result repeats its own."""
    swept = len({result.instance.settings for result, _ in results}) > 1
    entries = [(_settings(result) if swept else {}) | _entry(result, values) for result, values in results]
    return _settings(results[0][0]) | {"results": entries}


def _settings(result: InstanceResult) -> dict[str, Any]:
    settings = result.instance.settings
    return {
        "model": result.model_name,
        "modelSize": result.weights_bytes / BYTES_PER_GIB,
        "backend": settings.backend,
        "threads": settings.threads,
        "useMmap": settings.mmap,
        "precision": settings.precision,
        "memory": settings.memory,
        "power": settings.power,
        "attentionOption": settings.quant_attention,
    }


def _entry(result: InstanceResult, values: Mapping[str, Value]) -> dict[str, Any]:
    instance = result.instance
    entry: dict[str, Any] = {"type": TYPES[instance.kind], "prompt_len": instance.n_prompt, "generate_len": instance.n_gen}
    if instance.kind == "prefill":
        entry |= _with_std("tps", "std", result.prefill_tps)
    elif instance.kind == "decode":
        entry |= _with_std("tps", "std", result.decode_tps)
    else:
        entry |= _with_std("prefill_tps", "prefill_std", result.prefill_tps)
        entry |= _with_std("decode_tps", "decode_std", result.decode_tps)
    for column in (*H2O_COLUMNS, *ASYNC_COLUMNS, *EVIDENCE_COLUMNS):
        if column.name not in values:
            continue
        value = values[column.name]
        if column.form != "mean_sd":
            entry[column.json_key] = value
        elif isinstance(value, tuple):
            entry |= _with_std(column.json_key, f"{column.json_key}_std", value)
        else:
            entry |= {column.json_key: None, f"{column.json_key}_std": None}
    return entry


def _with_std(key: str, std_key: str, samples: Samples | Any) -> dict[str, float]:
    mean, sd = mean_and_sd(samples)
    return {key: mean, std_key: sd}
