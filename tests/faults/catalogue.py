"""Every fault that a gate must catch: its row in the catalogue of known defects, what is planted, and which gate must turn red.

``D1`` to ``D29`` are the rows of that catalogue; ``X1`` to ``X8`` are faults that other projects met; ``Y`` rows were found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import doctored
from .doctored import ON, kept_logs, scripted
from .faulty_llm_bench import NO_FAULT, PLANTS
from .gate_runs import REFUSED, Arrange, engine_run

INTEGRITY = (
    "lossy", "decomp", "queue_peak", "fallback", "resident", "coverage", "scope", "repeats", "tokens", "prompt_kind",
    "async_wait", "backpressure", "decode_cache", "log_scan",
)  # fmt: skip
EVERY_GATE = (*INTEGRITY, "quality", "kv_exact")
"""All but the online gate, which reads no engine's table, and decode_pass, which has a setting of its own."""
WITHOUT_BASELINE = tuple(gate for gate in EVERY_GATE if gate != "resident")


@dataclass(frozen=True)
class Fault:
    """``expected``: gate → status. ``says``: words that the reason of each must hold. ``control``: the run without the fault.

    ``gap``: why no gate catches it as yet, with the evidence that would; such a fault is in the table as not caught.
    """

    name: str
    ids: tuple[str, ...]
    planted: str
    expected: Mapping[str, str]
    arrange: Arrange
    control: str
    says: str = ""
    alone: bool = False
    gap: str = ""


CONTROLS: dict[str, Arrange] = {
    "full": engine_run(NO_FAULT, "full", gates=EVERY_GATE, quality=True),
    "store": engine_run(NO_FAULT, "store", gates=EVERY_GATE, quality=True),
    "groups": engine_run(NO_FAULT, "groups", gates=INTEGRITY, quality=False),
    "short": engine_run(NO_FAULT, "short", gates=("lossy", "scope"), quality=False),
    "lengths": engine_run(NO_FAULT, "lengths", gates=INTEGRITY, quality=False),
    "timing": engine_run(NO_FAULT, "timing", gates=("decode_drop",), quality=False, alone=True),
    "kept_baseline": doctored.kept_baseline(NO_FAULT),
    "scripted": scripted((), "-m", "runtime"),
    "scripted_lengths": scripted((), "-m", "runtime", prompts=(64, 128)),
    "appended_log": kept_logs({"run.log": ("3.200 ± 0.000", "3.190 ± 0.000")}),
    "two_logs": kept_logs(
        {"run_0001_p512_g128_k0.3_b32_lr3.2.log": ("3.100 ± 0.000",), "run_0002_p1024_g128_k0.3_b32_lr3.2.log": ("3.140 ± 0.000",)}
    ),
    "sound_dump": doctored.dump_with_damaged_front(damaged=False),
    "sound_evaluator": doctored.evaluator_without_low_bytes(planted=False),
}
ALONE = ("timing", "kept_baseline")


def _engine(
    name: str,
    ids: str,
    expected: Mapping[str, str],
    setting: str = "full",
    *,
    quality: bool = False,
    options: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
    says: str = "",
    gap: str = "",
) -> Fault:
    """A fault planted in the engine, under the name of its function."""
    alone = setting in ALONE
    judged = gates or (WITHOUT_BASELINE if quality else INTEGRITY)
    arrange = engine_run(name, setting, gates=judged, quality=quality, options=options, alone=alone)
    planted = " ".join((PLANTS[name].__doc__ or "").split())
    return Fault(name, tuple(ids.split()), planted, expected, arrange, setting, says, alone, gap)


def _doctored(
    name: str, ids: str, planted: str, expected: Mapping[str, str], arrange: Arrange, control: str, says: str = "", *, alone: bool = False
) -> Fault:
    return Fault(name, tuple(ids.split()), planted, expected, arrange, control, says, alone)


def _fails(*gates: str) -> dict[str, str]:
    return dict.fromkeys(gates, "FAIL")


def _not_measured(*gates: str) -> dict[str, str]:
    return dict.fromkeys(gates, "NOT_MEASURED")


def _cell(name: str, cell: str) -> Fault:
    rules = [{"when": ON, "cells": {"h2o_lossless_queue_peak": cell}}]
    return _doctored(
        f"cell_{name}", "D18", f"A cell of the table reads `{cell}`.", _not_measured("runtime_queue_peak_pass"),
        scripted(rules, "-m", "runtime and queue_peak"), "scripted", says=cell,
    )  # fmt: skip


_UNPRINTED = {
    "lossy_pass": "h2o_lossy",
    "runtime_decomp_pass": "h2o_lossless_decomp_us",
    "runtime_queue_peak_pass": "h2o_lossless_queue_peak",
    "runtime_fallback_pass": "h2o_lossless_fallback",
    "async_wait_pass": "h2o_lossless_async_wait_us",
    "backpressure_pass": "h2o_lossless_backpressure_skip",
    "tokens_pass": "decode_tokens",
    "kv_exact_pass": "kv_mismatch_blocks",
    "quality_pass": "kl_mean",
}
_BASELINES = tuple({"when": {"kv": "off", "dump": False, "call": call}, "decode": f"{tps}.00 ± 1.00"} for call, tps in
                   ((1, 200), (2, 230), (3, 172), (4, 230)))  # fmt: skip

FAULTS: tuple[Fault, ...] = (
    _engine("values_scrambled", "D1", _fails("quality_pass"), quality=True),
    _engine("memory_not_returned", "D2", _fails("resident_pass")),
    _engine("memory_returned_at_the_end", "D2", _fails("resident_pass"), says="while decoding"),
    _engine("ratio_of_lengths", "D2", _fails("scope_pass", "resident_pass")),
    _engine("three_groups_only", "D3", _fails("coverage_pass")),
    _engine("zeros_instead_of_rows", "D4", _fails("resident_pass"), "store"),
    _engine("all_restored_at_once", "D4", _fails("resident_pass"), says="above the baseline's"),
    _engine("raw_copy_in_decode_cache", "D5", _fails("decode_cache_pass", "runtime_decomp_pass", "resident_pass"), "store"),
    _engine("second_turn_reads_zeros", "D6", _fails("kv_exact_pass"), "store", quality=True),
    _engine("codec_loses_a_bit", "D6 Y1", _fails("kv_exact_pass"), "store", quality=True),
    _engine("plan_of_first_layer_everywhere", "D7", _fails("scope_pass"), says="expected all"),
    _engine("plan_of_first_layer", "D7 Y2", _fails("quality_pass"), quality=True),
    _engine("plan_of_next_layer", "D7 Y3", _fails("quality_pass"), quality=True),
    _engine("scores_of_wrong_dtype", "D8", _fails("quality_pass"), quality=True),
    _engine("scores_are_noise", "D8", _fails("quality_pass"), quality=True),
    _engine("encoder_is_slow", "D9", _fails("runtime_queue_peak_pass", "async_wait_pass"), "groups"),
    _engine("queue_refuses", "D9 Y5", _fails("backpressure_pass"), "groups"),
    _engine("every_encode_fails", "D10", _fails("runtime_fallback_pass", "coverage_pass")),
    _engine("every_encode_fails_untold", "D10", _fails("coverage_pass", "runtime_decomp_pass")),
    _engine("constant_prompt", "D11", _fails("prompt_pass")),
    _engine("ends_well_without_rows", "D12", _not_measured("lossy_pass", "tokens_pass"), says="although it exited 0"),
    _engine("text_ends_early", "D13", _fails("tokens_pass")),
    _engine("text_ends_early_untold", "D13", _fails("scope_pass"), says="expected all"),
    _doctored(
        "hard_coded_baseline", "D14", "`--decode-baseline=6.60`, a number of another machine.", {REFUSED: "FAIL"},
        scripted((), "-m", "runtime and decode_drop", "--decode-baseline=6.60"), "scripted", says="expected a baseline of the candidate's",
    ),
    _doctored(
        "forced_baseline", "D14", "The same number, forced: the candidate looks 30 times faster.", _not_measured("decode_pass"),
        scripted((), "-m", "runtime and decode_drop", "--decode-baseline=6.60", "--decode-baseline-force=yes"), "scripted",
        says="not believed",
    ),
    _doctored(
        "baseline_scatters", "D15", "One baseline process differs from the next by 15 %.", {"decode_pass": "INCONCLUSIVE"},
        scripted(_BASELINES, "-m", "runtime and decode_drop"), "scripted", says="pairs would decide",
    ),
    _doctored(
        "lucky_row", "D16", "One prompt length is 30 % faster than the baseline, the other 10 % slower.", _fails("decode_pass"),
        scripted([{"when": {**ON, "prompt": 64}, "decode": "180.00 ± 1.00"}, {"when": {**ON, "prompt": 128}, "decode": "260.00 ± 1.00"}],
                 "-m", "runtime and decode_drop", prompts=(64, 128)), "scripted_lengths",
    ),
    _doctored(
        "columns_not_printed", "D17", "The columns of nine gates are not in the table.", _not_measured(*_UNPRINTED),
        scripted((), "-m", "runtime", without=tuple(_UNPRINTED.values())), "scripted",
    ),
    _cell("infinite", "inf ± 0.00"),
    _cell("not_a_number", "nan ± nan"),
    _cell("with_an_exponent", "1.2e3 ± 0.00"),
    _cell("negative", "-9.00 ± 0.00"),
    _doctored(
        "second_table_in_a_log", "D19", "A second process appends its header and a row of ratio 2.0 to the log of the first.",
        _fails("lossy_pass"), kept_logs({"run.log": ("3.200 ± 0.000", "2.000 ± 0.000")}), "appended_log",
    ),
    _doctored(
        "dump_partly_damaged", "D20", "The layer of a dump that compresses best is cut off; its raw bytes would lift the ratio to 2.",
        _fails("lossless_online_pass"), doctored.dump_with_damaged_front(damaged=True), "sound_dump",
    ),
    _doctored(
        "evaluator_loses_bytes", "D21", "The evaluator's encoder drops the low byte of every word.", _not_measured("lossless_online_pass"),
        doctored.evaluator_without_low_bytes(planted=True), "sound_evaluator", says="codec_error",
    ),
    _engine("crashes", "D22", _not_measured("lossy_pass"), "lengths", says="SIGSEGV"),
    _engine("hangs", "D22", _not_measured("lossy_pass"), "lengths", options=("--case-timeout=12",), says="timed out"),
    _doctored(
        "no_dump", "D23", "The engine makes no dump, and its runtime ratio is 1.4.", _not_measured("lossless_online_pass"),
        scripted((), "-m", "runtime and online_lossless", dump="none"), "scripted", says="may not dump",
    ),
    _doctored(
        "gate_that_cannot_fail", "D24", "`--max-queue-peak=256`, the depth at which the queue ends.", {REFUSED: "FAIL"},
        scripted((), "-m", "runtime and queue_peak", "--max-queue-peak=256"), "scripted", says="so that the gate can fail",
    ),
    _engine("repeats_share_layers", "D25", _not_measured("repeats_pass"), says="leaks state"),
    _engine("repeats_share_layers_untold", "D25", _fails("repeats_pass", "scope_pass")),
    _doctored(
        "layer_count_missing", "D26", "config.json does not say how many layers the model has.", _not_measured("lossy_pass"),
        doctored.config_without_layer_count(), "full", says="num_hidden_layers",
    ),
    _engine("layer_count_by_default", "D26", _fails("scope_pass")),
    _doctored(
        "one_length_fails", "D27", "Ratio 3.14 at prompt 1024 and 2.77 at 512, of one configuration.", _fails("lossy_pass"),
        kept_logs({"run_0001_p512_g128_k0.3_b32_lr3.2.log": ("2.770 ± 0.000",),
                   "run_0002_p1024_g128_k0.3_b32_lr3.2.log": ("3.140 ± 0.000",)}), "two_logs",
    ),
    _doctored(
        "hot_recent_256", "D29", "kv_lossless_hot_recent_tokens is 256, more than eviction leaves.", _not_measured("scope_pass"),
        engine_run(NO_FAULT, "hot", gates=INTEGRITY, quality=False), "full", says="packed nothing",
    ),
    _engine("positions_restart_at_kept", "X1", _fails("quality_pass"), quality=True),
    _engine("positions_off_by_one", "X1", _fails("quality_pass"), quality=True),
    _engine("kept_set_frozen", "X2", _fails("quality_pass"), quality=True),
    _engine("kv_per_query_head", "X3", _fails("resident_pass"), says="the model's config.json makes it"),
    _engine("inactive_steps_counted", "X4", _fails("scope_pass", "resident_pass")),
    _engine("ties_evict_the_newer", "X5", _fails("quality_pass"), quality=True),
    _engine("kept_count_zero", "X6", _fails("scope_pass"), "short", gates=("lossy", "scope")),
    _engine("scores_of_last_prompt", "X7", _fails("quality_pass"), quality=True),
    _engine("prefilled_differently", "X8", _fails("kv_exact_pass"), quality=True),
    _doctored(
        "log_tells_of_broken_kv", "Y6", "A line of the engine's output says that a block was zero-filled; its table says nothing.",
        _fails("log_pass"), scripted([{"when": ON, "junk": "kv: layer 3: block 17 zero-filled"}], "-m", "runtime"), "scripted",
    ),
    _engine("candidate_is_slower", "Y4", _fails("decode_pass"), "timing", gates=("decode_drop",)),
    _doctored(
        "baseline_of_loaded_machine", "D28", "A kept baseline was measured 1.82 times too slow.", _not_measured("decode_pass"),
        doctored.kept_baseline("baseline_on_loaded_machine"), "kept_baseline", says="not believed", alone=True,
    ),
)  # fmt: skip
