"""The llm_bench table as data: which columns there are, in which order, and how a cell is written.

Source: the llm_bench contract ("Markdown table", "JSON") and the evidence columns of our runtime semantics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CellForm = Literal["text", "integer", "mean_sd", "number", "llm_demo", "speed", "bytes"]
Group = Literal["instance", "optional", "run", "h2o", "lossless", "async", "evidence", "loading", "test"]


@dataclass(frozen=True)
class Column:
    """One column: ``name`` as in the header, ``unit`` of the value, ``decimals`` printed, ``json_key`` in the -j file.

    Forms: text; integer; ``mean_sd`` = ``mean ± sd`` over the repeats; ``number`` = one value, no spread; ``llm_demo`` =
    ``prompt=P<br>decode=N``; ``speed`` = ``prefill ± sd<br>decode ± sd``; ``bytes`` = ``x MiB`` or ``x GiB``.
    """

    name: str
    form: CellForm
    group: Group
    unit: str = ""
    decimals: int = 2
    json_key: str = ""

    @property
    def right_aligned(self) -> bool:
        return self.form in ("integer", "mean_sd", "number", "speed", "bytes")


def _h2o(name: str, unit: str, decimals: int, group: Group = "h2o", json_key: str = "") -> Column:
    return Column(name, "mean_sd", group, unit, decimals, json_key or name)


INSTANCE_COLUMNS: tuple[Column, ...] = (
    Column("model", "text", "instance"),
    Column("modelSize", "bytes", "instance", "MiB"),
    Column("backend", "text", "instance"),
    Column("threads", "integer", "instance"),
    Column("precision", "text", "instance"),
    Column("memory", "text", "optional"),
    Column("dynamicOption", "integer", "optional"),
    Column("divisionRatioSme2Neon", "integer", "optional"),
    Column("attentionOption", "integer", "optional"),
    Column("smeCoreNum", "integer", "optional"),
    Column("mmap", "text", "optional"),
)

RUN_COLUMNS: tuple[Column, ...] = (
    Column("llm_demo", "llm_demo", "run", "tokens"),
    Column("speed(tok/s)", "speed", "run", "tok/s"),
)

TEST_COLUMNS: tuple[Column, ...] = (
    Column("test", "text", "test"),
    Column("t/s", "mean_sd", "test", "tok/s"),
)

H2O_COLUMNS: tuple[Column, ...] = (
    _h2o("h2o_keep", "ratio", 4, json_key="h2o_keep_ratio"),
    _h2o("h2o_lossy", "ratio", 3, json_key="h2o_lossy_ratio"),
    _h2o("h2o_lossless", "ratio", 3, json_key="h2o_lossless_ratio"),
    _h2o("h2o_target_keep_effective", "ratio", 4),
    _h2o("h2o_floor_keep", "ratio", 4),
    _h2o("h2o_quantized_keep", "ratio", 4),
    _h2o("h2o_evict_us", "us", 2),
    _h2o("h2o_codec_us", "us", 2),
    _h2o("h2o_lossless_raw_mb", "MiB", 2, "lossless"),
    _h2o("h2o_lossless_comp_mb", "MiB", 2, "lossless"),
    _h2o("h2o_lossless_comp_us", "us", 2, "lossless"),
    _h2o("h2o_lossless_decomp_us", "us", 2, "lossless"),
    _h2o("h2o_lossless_queue_peak", "blocks", 2, "lossless"),
    _h2o("h2o_lossless_fallback", "blocks", 2, "lossless"),
)

ASYNC_COLUMNS: tuple[Column, ...] = (
    _h2o("h2o_lossless_backpressure_skip", "blocks", 2, "async"),
    _h2o("h2o_lossless_async_queue_peak", "blocks", 2, "async"),
    _h2o("h2o_lossless_async_wait_us", "us", 2, "async"),
    _h2o("h2o_lossless_decode_cache_hit", "blocks", 2, "async"),
    _h2o("h2o_lossless_decode_cache_miss", "blocks", 2, "async"),
)

EVIDENCE_COLUMNS: tuple[Column, ...] = (
    Column("kv_full_mb", "number", "evidence", "MiB", 4, "kv_full_mb"),
    Column("kv_resident_mb", "mean_sd", "evidence", "MiB", 4, "kv_resident_mb"),
    Column("kv_peak_mb", "mean_sd", "evidence", "MiB", 4, "kv_peak_mb"),
    Column("kv_range_full_mb", "number", "evidence", "MiB", 4, "kv_range_full_mb"),
    Column("kv_range_resident_mb", "mean_sd", "evidence", "MiB", 4, "kv_range_resident_mb"),
    Column("lossless_coverage", "mean_sd", "evidence", "ratio", 4, "lossless_coverage"),
    Column("kv_mismatch_blocks", "mean_sd", "evidence", "blocks", 2, "kv_mismatch_blocks"),
    Column("decode_tokens", "mean_sd", "evidence", "tokens", 2, "decode_tokens"),
    Column("prompt_kind", "text", "evidence", "", 0, "prompt_kind"),
    Column("nll_full", "number", "evidence", "nats", 4, "nll_full"),
    Column("nll_kv", "number", "evidence", "nats", 4, "nll_kv"),
    Column("kl_mean", "number", "evidence", "nats", 4, "kl_mean"),
    Column("top1_agree", "number", "evidence", "ratio", 4, "top1_agree"),
    Column("recall_full", "number", "evidence", "ratio", 4, "recall_full"),
    Column("recall_kv", "number", "evidence", "ratio", 4, "recall_kv"),
    Column("recall_first_full", "number", "evidence", "ratio", 4, "recall_first_full"),
    Column("recall_first_kv", "number", "evidence", "ratio", 4, "recall_first_kv"),
    Column("kl_mean_random", "number", "evidence", "nats", 4, "kl_mean_random"),
    Column("kl_mean_window", "number", "evidence", "nats", 4, "kl_mean_window"),
    Column("recall_random", "number", "evidence", "ratio", 4, "recall_random"),
    Column("recall_window", "number", "evidence", "ratio", 4, "recall_window"),
    Column("quality_prompts", "number", "evidence", "prompts", 0, "quality_prompts"),
    Column("recall_answers", "number", "evidence", "answers", 0, "recall_answers"),
    Column("kept_tokens", "text", "evidence", "tokens", 0, "kept_tokens"),
    Column("lossless_front_mb", "mean_sd", "evidence", "MiB", 4, "lossless_front_mb"),
    Column("lossless_kept_mb", "mean_sd", "evidence", "MiB", 4, "lossless_kept_mb"),
    Column("turns_mismatch_rows", "number", "evidence", "rows", 0, "turns_mismatch_rows"),
    Column("kv_range_decode_mb", "mean_sd", "evidence", "MiB", 4, "kv_range_decode_mb"),
    Column("kl_masked", "number", "evidence", "nats", 8, "kl_masked"),
)

LOADING_COLUMNS: tuple[Column, ...] = (Column("loadingTime(s)", "mean_sd", "loading", "s", 2, "loading_time"),)

COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        *INSTANCE_COLUMNS,
        *RUN_COLUMNS,
        *TEST_COLUMNS,
        *H2O_COLUMNS,
        *ASYNC_COLUMNS,
        *EVIDENCE_COLUMNS,
        *LOADING_COLUMNS,
    )
}

NOT_MEASURED_CELL = "n/a"
"""What the embedded engine prints where a value does not exist for the run (recall without planted answers, say)."""
