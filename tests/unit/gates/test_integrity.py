"""The integrity gates: inside, at and outside their limits; evidence that is missing, not printed, required; and what does not apply."""

from __future__ import annotations

from dataclasses import replace

import pytest

from h2o_gate_plugin.gates.checks import GATES, check
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, Row
from h2o_gate_plugin.gates.limits import Limits
from h2o_gate_plugin.gates.log_scan import LogFacts
from h2o_gate_plugin.gates.result import GateName, GateResult
from h2o_gate_plugin.kv_options import KvValue

from .rows import NA, Cell, a_case, a_row, judged, required

STORE: dict[str, KvValue] = {
    "kv_lossless_runtime_mode": "store",
    "kv_lossless_store_disable_front": False,
    "kv_lossless_front_sample_token_interval": 1,
}
COLUMN_GATES: dict[GateName, tuple[str, Cell, Cell, Cell]] = {
    "resident_pass": ("kv_range_resident_mb", 1.0, 3.2 / 3.0, 1.07),
    "coverage_pass": ("lossless_coverage", 0.951, 0.95, 0.949),
    "kv_exact_pass": ("kv_mismatch_blocks", 0.0, 0.0, 1.0),
    "repeats_pass": ("h2o_lossy", (3.2, 0.0), (3.2, 0.0), (3.2, 0.001)),
    "tokens_pass": ("decode_tokens", 128.0, 128.0, 127.0),
    "prompt_pass": ("prompt_kind", "text", "text", "constant"),
    "async_wait_pass": ("h2o_lossless_async_wait_us", 49_999.0, 50_000.0, 50_001.0),
    "backpressure_pass": ("h2o_lossless_backpressure_skip", 0.0, 0.0, 1.0),
}


def log(
    broken: tuple[str, ...] = (), planned: tuple[int, ...] = (2, 3), groups: tuple[tuple[int, int, int], ...] = (), **encoded: int
) -> LogFacts:
    return LogFacts(broken, len(broken), frozenset(planned), groups, {int(name[1:]): size for name, size in encoded.items()})


def of(column: str, cell: Cell, **more: Cell) -> CaseEvidence:
    """A good row, and one in which ``column`` has ``cell``."""
    return a_case(a_row(), a_row({column: cell, **more}, prompt=1024, kept_tokens="1152,1152,365,365"))


@pytest.mark.parametrize("name", COLUMN_GATES)
def test_a_gate_holds_inside_and_at_its_limit_and_fails_outside_at_the_worst_row(name: GateName) -> None:
    column, inside, at, outside = COLUMN_GATES[name]
    for cell, status in ((inside, "PASS"), (at, "PASS"), (outside, "FAIL")):
        result = judged(name, of(column, cell))
        assert (result.status, result.failed) == (status, status == "FAIL")
        if status == "FAIL":
            assert result.rows == ("prompt 1024 gen 128 (run.log:3)",)


@pytest.mark.parametrize("name", [*COLUMN_GATES, "scope_pass", "decode_cache_pass", "log_pass", "quality_pass"])
def test_without_a_limit_every_gate_is_off(name: GateName) -> None:
    limits = {limit: None for gate in GATES.values() for limit in gate.limits}
    result = judged(name, a_case(a_row()), **limits)
    assert (result.status, result.reason) == ("OFF", "switched off by default")


@pytest.mark.parametrize("name", [name for name in COLUMN_GATES if name != "repeats_pass"])
def test_a_column_that_the_engine_does_not_print_is_unproven_and_fails_only_where_it_is_required(name: GateName) -> None:
    column = COLUMN_GATES[name][0]
    case = a_case(a_row({column: None}))
    result = judged(name, case)
    assert (result.status, result.failed) == ("UNPROVEN", False)
    assert result.reason == f"the engine prints no {column}"
    strict = required(name, case)
    assert (strict.status, strict.failed) == ("NOT_MEASURED", True)


@pytest.mark.parametrize("name", [name for name in COLUMN_GATES if name not in ("prompt_pass", "repeats_pass")])
def test_a_figure_that_is_missing_in_one_row_of_several_fails(name: GateName) -> None:
    result = judged(name, of(COLUMN_GATES[name][0], NA))
    assert result.status == "NOT_MEASURED"
    assert "no figure in 1 of 2 rows, first prompt 1024" in (result.reason or "")


@pytest.mark.parametrize("name", [*COLUMN_GATES, "scope_pass", "decode_cache_pass", "log_pass", "quality_pass"])
def test_a_failed_process_is_no_evidence(name: GateName) -> None:
    for case in (a_case(), a_case(a_row(), failures=("candidate r1: exit code 3",))):
        result = judged(name, case)
        assert result.status == "NOT_MEASURED"
        assert result.reason in ("no rows of the candidate", "candidate r1: exit code 3")


def test_store_mode_is_held_to_the_joint_limit() -> None:
    assert judged("resident_pass", a_case(a_row(kv_range_resident_mb=1.0), mode="full")).status == "PASS"
    result = judged("resident_pass", a_case(a_row(kv_range_resident_mb=1.0), mode="store"))
    assert (result.status, result.value, result.limit) == ("FAIL", 3.2, 3.3)


def test_the_moment_nearest_to_failing_brings_its_value_its_limit_and_its_origin() -> None:
    origins = {"min_resident": "pack m3", "min_joint_resident": "pack store"}

    def resident(case: CaseEvidence, joint: float | None = 3.3) -> GateResult:
        return check("resident_pass", case, lambda: OfflineEvidence(None, None, "test"), Limits(min_joint_resident=joint, origins=origins))

    decoding = resident(a_case(a_row(kv_range_decode_mb=1.0, kv_range_resident_mb=0.1), mode="store"))
    assert (decoding.value, decoding.limit, decoding.limit_origin) == (3.2, 3.0, "pack m3")
    assert decoding.source == "while decoding: kv_range_full_mb / kv_range_resident_mb, kv_range_decode_mb"
    assert [(each.name, each.unit, each.origin) for each in decoding.criteria] == [
        ("while decoding", "ratio", "pack m3"),
        ("after the turn", "ratio", "pack store"),
    ]
    turn = resident(a_case(a_row(kv_range_resident_mb=1.0), mode="store"))
    assert (turn.value, turn.limit, turn.limit_origin) == (3.2, 3.3, "pack store")
    both = resident(a_case(a_row(kv_range_decode_mb=2.0, kv_range_resident_mb=1.6), mode="store"))
    first, second = (both.reason or "").split("; ")
    assert (first[:20], second[:20]) == ("while decoding 1.600", "after the turn 2.000")
    missing = resident(a_case(mode="store"))
    assert (missing.status, missing.limit, missing.limit_origin) == ("NOT_MEASURED", 3.3, "pack store")
    idle = resident(a_case(a_row(prompt=128, gen=64), mode="store"), joint=None)
    assert (idle.status, (idle.reason or "")[:23]) == ("NOT_MEASURED", "H2O never switched on: ")


def test_memory_that_is_not_counted_or_not_told_is_no_ratio() -> None:
    for nothing in ("kv_range_full_mb", "kv_range_resident_mb"):
        result = judged("resident_pass", a_case(a_row({nothing: 0.0})))
        assert (result.status, result.value) == ("FAIL", 0.0)
    for untold in ("kv_range_full_mb", "kv_range_decode_mb", "kv_range_resident_mb"):
        assert judged("resident_pass", a_case(a_row({untold: None}))).status == "UNPROVEN"


def test_the_highest_baseline_of_the_same_lengths_is_the_peak_to_stay_below() -> None:
    case = a_case(a_row(kv_peak_mb=0.8), a_row(prompt=1024, kv_peak_mb=8.0))
    for high in (a_row(kv_peak_mb=0.8), a_row(kv_peak_mb=0.7999)):
        baseline = (high, a_row(pair=2, kv_peak_mb=0.5), a_row(prompt=1024, kv_peak_mb=8.0))
        assert judged("resident_pass", replace(case, baseline_rows=baseline)).status == "PASS"
    low = (a_row(kv_peak_mb=0.5), a_row(prompt=1024, kv_peak_mb=8.0))
    assert "peak of KV memory 0.8000 MiB" in (judged("resident_pass", replace(case, baseline_rows=low)).reason or "")
    assert judged("resident_pass", a_case(a_row(kv_peak_mb=1e-4), baseline_peak=0.0)).status == "PASS"


def test_a_peak_above_the_baselines_fails_whatever_is_left_at_the_end() -> None:
    assert judged("resident_pass", a_case(a_row(kv_peak_mb=4.0))).status == "PASS"
    result = judged("resident_pass", a_case(a_row(kv_peak_mb=4.01)))
    assert (result.status, result.value) == ("FAIL", 4.0)
    assert len(result.criteria) == 2
    assert "above the baseline's 4.0000 MiB" in (result.reason or "")


def test_memory_that_is_given_back_only_at_the_end_fails_and_is_told_apart() -> None:
    result = judged("resident_pass", a_case(a_row(kv_range_decode_mb=2.0)))
    assert (result.status, result.value, result.limit) == ("FAIL", 1.6, 3.0)
    assert result.reason == "while decoding 1.600, limit 3 at prompt 512 gen 128 (run.log:3)"
    assert judged("resident_pass", a_case(a_row(kv_range_decode_mb=1.0), mode="store")).status == "PASS"
    assert judged("resident_pass", a_case(a_row(kv_range_decode_mb=2.0)), min_resident=None).status == "OFF"


def test_kv_that_is_counted_larger_than_the_model_makes_it_fails() -> None:
    for full_mib, status in ((20.0, "PASS"), (20.03, "PASS"), (40.0, "FAIL"), (10.0, "FAIL")):
        row = replace(a_row(kv_full_mb=full_mib), kv_token_bytes=2**15)
        result = judged("resident_pass", a_case(row))
        assert result.status == status
        assert status == "PASS" or "the model's config.json makes it 20.0000" in (result.reason or "")


@pytest.mark.parametrize(
    "kv",
    [
        {"kv_lossless_kept_sample_layers": 1},
        {"kv_lossless_kept_sample_token_interval": 2},
        {"kv_lossless_runtime_mode": "probe"},
        {"kv_lossless_enable": False},
        STORE | {"kv_lossless_store_disable_front": True},
        {"kv_lossless_front_sample_token_interval": 2},
    ],
)
def test_coverage_is_asked_for_only_where_it_is_claimed_and_shown_always(kv: dict[str, KvValue]) -> None:
    result = judged("coverage_pass", a_case(a_row(kv=kv, lossless_coverage=0.1)))
    assert (result.status, result.value, result.failed) == ("OFF", 0.1, False)
    assert "no claim" in (result.reason or "")


def test_where_nothing_is_claimed_and_nothing_printed_coverage_is_off_and_a_sampling_row_does_not_hide_a_claiming_one() -> None:
    sampling: dict[str, KvValue] = {"kv_lossless_kept_sample_layers": 1}
    result = judged("coverage_pass", a_case(a_row(kv=sampling, lossless_coverage=None)))
    assert (result.status, result.value) == ("OFF", None)
    assert result.reason == "no claim of full coverage: the configuration samples or leaves out the front"
    for coverage, status in ((0.96, "PASS"), (0.94, "FAIL")):
        mixed = judged("coverage_pass", a_case(a_row(kv=sampling, lossless_coverage=NA), a_row(lossless_coverage=coverage)))
        assert (mixed.status, mixed.value) == (status, coverage)


def test_store_mode_that_samples_nothing_claims_full_coverage() -> None:
    assert judged("coverage_pass", a_case(a_row(kv=STORE, lossless_coverage=0.1), mode="store")).status == "FAIL"


def test_results_made_elsewhere_claim_nothing_that_is_known() -> None:
    unknown: dict[GateName, str] = {
        "coverage_pass": "not known what the configuration claims to cover",
        "scope_pass": "not known how the layers were configured",
        "decode_cache_pass": "not known whether there was a decode cache",
    }
    for name, why in unknown.items():
        result = judged(name, a_case(a_row(kv=None)))
        assert (result.status, result.reason) == ("UNPROVEN", why)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("640,630,205,205", "layer 1 holds 630 tokens, expected all 640"),
        ("640,640,205,640", "layer 3 holds 640 tokens, h2o_lossy 3.200 of 640 allows 200"),
        ("640,640,0,205", "layer 2 holds 0 tokens, fewer than the protected 112"),
        ("1280,640,205,205", "layer 0 holds 1280 tokens, expected all 640"),
    ],
)
def test_a_layer_that_holds_what_it_may_not_is_counted(kept: str, told: str) -> None:
    result = judged("scope_pass", a_case(a_row(kept_tokens=kept)))
    assert (result.status, result.value) == ("FAIL", 1.0)
    assert told in (result.reason or "")
    assert judged("scope_pass", a_case(a_row(kept_tokens=kept)), max_scope_violations=1.0).status != "FAIL"


def test_of_many_violations_all_are_counted_and_the_first_rows_and_lines_are_told() -> None:
    rows = (a_row(kept_tokens=f"{kept},640,205,205", prompt=512, pair=pair) for pair, kept in enumerate((1, 2, 3, 4), 1))
    numbered = tuple(replace(row, bench=replace(row.bench, line=line)) for line, row in enumerate(rows, 1))
    result = judged("scope_pass", a_case(*numbered))
    assert (result.status, result.value) == ("FAIL", 4.0)
    assert result.rows == ("prompt 512 gen 128 (run.log:1)", "prompt 512 gen 128 (run.log:2)")
    assert result.reason == "; ".join(f"layer 0 holds {kept} tokens, expected all 640" for kept in (1, 2, 3))


def test_tokens_that_came_after_the_last_plan_are_no_violation() -> None:
    assert judged("scope_pass", a_case(a_row(kept_tokens="640,640,217,217"))).status == "PASS"
    assert judged("scope_pass", a_case(a_row(kept_tokens="640,640,218,217"))).status == "FAIL"


@pytest.mark.parametrize("part", ["front", "kept"])
def test_a_part_of_the_lossless_scope_that_packs_nothing_is_not_measured(part: str) -> None:
    result = judged("scope_pass", a_case(a_row({f"lossless_{part}_mb": 0.0})))
    assert result.status == "NOT_MEASURED"
    assert f"the {part} part of the lossless scope packed nothing" in (result.reason or "")


def test_a_part_that_is_not_in_scope_need_not_pack_anything() -> None:
    for scope, part in (("h2o_kept", "front"), ("front_n", "kept")):
        kv: dict[str, KvValue] = {"kv_lossless_scope": scope}
        assert judged("scope_pass", a_case(a_row({f"lossless_{part}_mb": NA}, kv=kv))).status == "PASS"


def test_below_the_trigger_nothing_is_measured_of_the_scope() -> None:
    result = judged("scope_pass", a_case(a_row(prompt=128, gen=64, kept_tokens="192,192,192,192")))
    assert result.status == "NOT_MEASURED"
    assert "H2O never switched on" in (result.reason or "")


def test_statistics_lines_stand_in_for_the_columns_of_what_was_packed() -> None:
    silent: dict[str, Cell] = {"lossless_front_mb": None, "lossless_kept_mb": None}
    groups = ((0, 1, 128), (2, 1, 128))
    assert judged("scope_pass", a_case(a_row(silent, log=log(groups=groups, l0=5, l2=7)))).status == "PASS"
    for part, packed in (("kept", log(groups=groups, l0=5)), ("front", log(groups=groups, l2=7))):
        idle = judged("scope_pass", a_case(a_row(silent, log=packed)))
        assert idle.status == "NOT_MEASURED"
        assert (idle.reason or "").startswith(f"the {part} part of the lossless scope packed nothing")
    untold = judged("scope_pass", a_case(a_row(silent)))
    assert untold.status == "UNPROVEN"
    assert untold.reason == "the engine does not say what it packed of each part of the lossless scope"
    unlayered = judged("scope_pass", a_case(a_row(kept_tokens=None)))
    assert (unlayered.status, unlayered.reason) == ("UNPROVEN", "the engine prints no kept_tokens")


def test_of_the_statistics_lines_the_front_ends_where_h2o_begins() -> None:
    silent: dict[str, Cell] = {"lossless_front_mb": None, "lossless_kept_mb": None, "kept_tokens": "640,205,205,205"}
    early: dict[str, KvValue] = {"kv_h2o_layer_start": 1}
    packed = log(groups=((1, 1, 128),), l1=5)
    assert "the front part" in (judged("scope_pass", a_case(a_row(silent, kv=early, log=packed))).reason or "")
    whole: dict[str, Cell] = {**silent, "kept_tokens": "640,640,640,640"}
    off: dict[str, KvValue] = early | {"kv_h2o_enable": False}
    assert judged("scope_pass", a_case(a_row(whole, kv=off, log=packed))).status == "PASS"


def test_two_turns_count_with_the_blocks_and_one_process_of_a_run_shows_them() -> None:
    silent = a_row(pair=2, turns_mismatch_rows=NA)
    assert judged("kv_exact_pass", a_case(a_row(), silent)).status == "PASS"
    result = judged("kv_exact_pass", a_case(a_row(turns_mismatch_rows=3.0), silent))
    assert (result.status, result.value) == ("FAIL", 3.0)
    uncompared = judged("kv_exact_pass", a_case(silent))
    assert (uncompared.status, uncompared.value) == ("NOT_MEASURED", 0.0)
    assert uncompared.reason == "no second turn was compared in prompt 512 gen 128 (run.log:3)"
    unprinted = a_case(a_row(turns_mismatch_rows=None))
    unproven = judged("kv_exact_pass", unprinted)
    assert (unproven.status, unproven.value) == ("UNPROVEN", 0.0)
    assert unproven.reason == "one turn is exact, but the engine prints no turns_mismatch_rows"
    assert required("kv_exact_pass", unprinted).failed
    assert judged("kv_exact_pass", a_case(a_row(turns_mismatch_rows=None, kv_mismatch_blocks=2.0))).status == "FAIL"


def test_the_worst_two_turns_of_any_run_decide_and_are_named() -> None:
    for turns in ((0.0, 3.0), (0.0, 0.5)):
        result = judged("kv_exact_pass", a_case(*(a_row(prompt=512 * at, turns_mismatch_rows=rows) for at, rows in enumerate(turns, 1))))
        assert (result.status, result.value) == ("FAIL", turns[1])
        assert result.rows == ("prompt 1024 gen 128 (run.log:3)",)


def test_processes_of_one_run_that_differ_leak_and_one_repeat_alone_shows_nothing() -> None:
    result = judged("repeats_pass", a_case(a_row(), a_row(pair=2, h2o_lossy=3.1)))
    assert result.status == "FAIL"
    assert result.value == pytest.approx(0.1 / 3.2)
    assert result.reason == "h2o_lossy differs between repeats: state leaks from one into the next"
    same = judged("repeats_pass", a_case(a_row(), a_row(pair=2)))
    assert (same.status, same.value, same.reason) == ("PASS", 0.0, None)
    alone = a_row()
    once = Row(alone.configuration, alone.run_id, 1, alone.bench, alone.kv, 1)
    unproven = judged("repeats_pass", a_case(once))
    assert unproven.status == "UNPROVEN"
    assert unproven.reason == "nothing was repeated in prompt 512 gen 128 (run.log:3): one repeat of one process"
    assert judged("repeats_pass", a_case(replace(once, repeats=None))).status == "UNPROVEN"
    assert judged("repeats_pass", a_case(once, a_row(pair=2))).status == "PASS"


def test_kv_is_counted_to_within_a_token_by_rows_of_one_length_too_and_where_the_model_is_known() -> None:
    token, wrong = 2**15, "the model's config.json makes it"
    assert judged("resident_pass", a_case(replace(a_row(kv_full_mb=20.0313), kv_token_bytes=token))).status == "PASS"
    unknown = a_row(kv_full_mb=40.0)
    assert judged("resident_pass", a_case(unknown)).status == "PASS"
    assert wrong in (judged("resident_pass", a_case(unknown, replace(unknown, kv_token_bytes=token))).reason or "")
    for prompt, gen in ((640, None), (None, 640)):
        row = a_row(kv_full_mb=20.0325)
        half = replace(row, bench=replace(row.bench, prompt_tokens=prompt, gen_tokens=gen), kv_token_bytes=token)
        assert f"{wrong} 20.0000" in (judged("resident_pass", a_case(half)).reason or "")


def test_rows_of_other_lengths_are_no_repeats_even_where_a_table_names_one_run() -> None:
    short, long = a_row(), a_row(prompt=1024, h2o_lossy=3.1)
    assert judged("repeats_pass", a_case(short, replace(long, run_id=short.run_id))).status == "PASS"


def test_a_spread_is_a_share_of_the_figure_however_small_and_columns_that_are_not_there_do_not_spread() -> None:
    small = judged("repeats_pass", a_case(a_row(h2o_keep=0.4), a_row(pair=2, h2o_keep=0.5)))
    assert small.value == pytest.approx(0.2)
    bare = a_row({"h2o_keep": None, "kv_range_full_mb": None})
    assert judged("repeats_pass", a_case(bare, replace(bare, pair=2))).status == "PASS"
    assert judged("repeats_pass", a_case(a_row(h2o_keep=0.0), a_row(pair=2, h2o_keep=0.0))).status == "PASS"


def test_tokens_that_differ_between_repeats_or_were_never_decoded_are_missing() -> None:
    told = judged("tokens_pass", of("decode_tokens", 90.0))
    assert (told.value, told.reason) == (38.0, "90 of 128 tokens were decoded: the speeds are wrong")
    assert judged("tokens_pass", of("decode_tokens", (128.0, 2.5))).value == 2.5
    assert judged("tokens_pass", of("decode_tokens", 0.0)).value == 128.0
    fine = judged("tokens_pass", of("decode_tokens", 128.0))
    assert (fine.status, fine.reason) == ("PASS", None)
    whole = replace(a_row(), bench=replace(a_row(decode_tokens=0.0).bench, gen_tokens=None))
    assert judged("tokens_pass", a_case(whole)).value == 0.0


def test_rows_of_equal_value_are_no_error() -> None:
    for name in COLUMN_GATES:
        assert judged(name, a_case(a_row(), a_row(pair=2), a_row(prompt=1024, kept_tokens="1152,1152,365,365"))).status == "PASS"


def test_every_odd_prompt_is_counted_and_its_kind_is_told() -> None:
    rows = (a_row(prompt_kind="constant"), a_row(prompt=1024, prompt_kind="random"), a_row(prompt=2048, prompt_kind="constant"), a_row())
    result = judged("prompt_pass", a_case(*rows))
    assert (result.value, len(result.rows)) == (3.0, 2)
    assert result.reason == "prompts of kind constant, random prove nothing about lossless"
    plain = judged("prompt_pass", a_case(a_row()))
    assert (plain.status, plain.reason) == ("PASS", None)


def test_the_baselines_tokens_count_too() -> None:
    case = a_case(a_row())
    short = CaseEvidence(case.case_id, case.runtime_mode, case.rows, (a_row(decode_tokens=90.0),))
    assert judged("tokens_pass", short).value == 38.0


def test_a_decode_cache_that_never_missed_decoded_nothing_and_one_that_never_hit_serves_nothing() -> None:
    outside = judged("decode_cache_pass", a_case(a_row()))
    assert (outside.status, outside.reason) == ("OFF", "nothing is read back from a store outside store mode")
    served = judged("decode_cache_pass", a_case(a_row(kv=STORE), mode="store"))
    assert (served.status, served.value, served.reason) == ("PASS", 4.0, None)
    for untold in ("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"):
        result = judged("decode_cache_pass", a_case(a_row({untold: None}, kv=STORE), mode="store"))
        assert (result.status, result.reason) == ("UNPROVEN", f"the engine prints no {untold}")
    missed = judged("decode_cache_pass", a_case(a_row(kv=STORE, h2o_lossless_decode_cache_miss=0.0), mode="store"))
    assert (missed.status, missed.value) == ("FAIL", 0.0)
    assert missed.reason == "no block was ever decoded: what attention reads is not the compressed copy"
    for blocks in (1, 64):
        kv: dict[str, KvValue] = STORE | {"kv_lossless_decode_cache_blocks": blocks}
        unserved = judged("decode_cache_pass", a_case(a_row(kv=kv, h2o_lossless_decode_cache_hit=0.0), mode="store"))
        assert (unserved.status, unserved.reason) == ("FAIL", "the decode cache never served a block")
    uncached: dict[str, KvValue] = STORE | {"kv_lossless_decode_cache_blocks": 0}
    assert judged("decode_cache_pass", a_case(a_row(kv=uncached, h2o_lossless_decode_cache_hit=0.0), mode="store")).status == "PASS"


def test_lines_that_tell_of_damage_or_contradict_the_configuration_fail_the_log() -> None:
    assert judged("log_pass", a_case(a_row(log=log()))).status == "PASS"
    told = judged("log_pass", a_case(a_row(log=log(("run.txt:7: checksum mismatch in layer 3",)))))
    assert (told.status, told.value, told.reason) == ("FAIL", 1.0, "run.txt:7: checksum mismatch in layer 3")
    planned = judged("log_pass", a_case(a_row(log=log(planned=(0, 2)))))
    assert planned.reason == "[H2O] layer=0 evicts, but kv_h2o_layer_start..end is 2..-1"
    first = judged("log_pass", a_case(a_row(log=log(groups=((0, 1, 64), (0, 2, 128))))))
    assert first.reason == "layer 0: first group of 64 tokens, expected 128"
    later = judged("log_pass", a_case(a_row(log=log(groups=((0, 1, 128), (0, 2, 64))))))
    assert "no later group of 128 tokens" in (later.reason or "")
    unread = judged("log_pass", a_case(a_row(log=log()), a_row(pair=2)))
    assert (unread.status, unread.reason) == ("UNPROVEN", "the output of the processes is not there")


def test_broken_lines_and_contradictions_of_all_processes_are_counted_together() -> None:
    clean, damaged = a_row(log=log()), a_row(prompt=1024, log=log(("a.txt:1: nan", "a.txt:2: inf"), planned=(0, 1)))
    result = judged("log_pass", a_case(clean, damaged, a_row(prompt=2048, log=log(planned=(1,)))))
    assert (result.status, result.value) == ("FAIL", 5.0)
    assert result.rows == ("prompt 1024 gen 128 (run.log:3)",)
    assert result.reason == "a.txt:1: nan; a.txt:2: inf"
    for bad in (log(("a.txt:1: nan",)), log(planned=(0,))):
        assert judged("log_pass", a_case(clean, a_row(prompt=1024, log=bad))).rows == result.rows
