from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.kv.report import KvReport
from h2o_gate_plugin.runtime.arguments import parse_arguments
from h2o_gate_plugin.runtime.instances import Instance, sweep
from h2o_gate_plugin.runtime.measure import load, measure_instance
from h2o_gate_plugin.runtime.quality import Quality, Reading, Role
from h2o_gate_plugin.runtime.results import InstanceResult, columns_of, values_of
from h2o_gate_plugin.runtime.timed_run import TimedRun

MIB = 1024 * 1024
NUMBERS = {field.name: float(place) for place, field in enumerate(fields(KvReport), start=1)}
REPORT = KvReport(**(NUMBERS | {"fallback_reasons": {}, "kept_tokens": (9, 9, 4)}))  # type: ignore[arg-type]
RUN = TimedRun(prefill_s=0.5, decode_s=4.0, decode_tokens=100, report=REPORT, log=(), fingerprint="x")
READINGS: dict[Role, Reading] = {
    "full": Reading(2.0, 0.0, 1.0, 0.9375, 0.875),
    "kv": Reading(2.5, 0.25, 0.75, 0.8125, 0.125),
    "random": Reading(2.6, 0.35, 0.65, 0.375, 0.0625),
    "window": Reading(2.7, 0.15, 0.85, 0.4375, 0.0),
}
QUALITY = Quality(3, 16, READINGS)
OF_QUALITY = {
    "nll_full": 2.0,
    "nll_kv": 2.5,
    "kl_mean": 0.25,
    "top1_agree": 0.75,
    "recall_full": 0.9375,
    "recall_kv": 0.8125,
    "recall_first_full": 0.875,
    "recall_first_kv": 0.125,
    "kl_mean_random": 0.35,
    "kl_mean_window": 0.15,
    "recall_random": 0.375,
    "recall_window": 0.4375,
    "quality_prompts": 3.0,
    "recall_answers": 16.0,
}
OF_COLUMN = {
    "h2o_keep": "keep_ratio",
    "h2o_lossy": "lossy_ratio",
    "h2o_lossless": "lossless_ratio",
    "h2o_target_keep_effective": "effective_keep",
    "h2o_floor_keep": "floor_keep",
    "h2o_quantized_keep": "quantized_keep",
    "h2o_evict_us": "evict_us",
    "h2o_codec_us": "codec_us",
    "h2o_lossless_comp_us": "comp_us",
    "h2o_lossless_decomp_us": "decomp_us",
    "h2o_lossless_queue_peak": "queue_peak",
    "h2o_lossless_fallback": "fallback",
    "h2o_lossless_backpressure_skip": "backpressure_skip",
    "h2o_lossless_async_queue_peak": "async_queue_peak",
    "h2o_lossless_async_wait_us": "async_wait_us",
    "h2o_lossless_decode_cache_hit": "cache_hit",
    "h2o_lossless_decode_cache_miss": "cache_miss",
    "lossless_coverage": "coverage",
    "kv_mismatch_blocks": "mismatch_blocks",
}
OF_COLUMN_IN_MIB = {
    "h2o_lossless_raw_mb": "raw_bytes",
    "h2o_lossless_comp_mb": "comp_bytes",
    "kv_resident_mb": "resident_bytes",
    "kv_peak_mb": "peak_bytes",
    "kv_range_resident_mb": "range_resident_bytes",
    "lossless_front_mb": "encoded_front_bytes",
    "lossless_kept_mb": "encoded_kept_bytes",
}


def instances_of(line: str) -> tuple[Instance, ...]:
    return sweep(parse_arguments(line.split()))


def result(instance: Instance, *runs: TimedRun) -> InstanceResult:
    return InstanceResult(instance, "m", 3 * MIB, (1.0,), "text", runs, QUALITY, 0)


def test_every_column_reads_its_own_number_of_the_report() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    values = values_of(result(instance, RUN, RUN))
    for name, field in OF_COLUMN.items():
        assert values[name] == (NUMBERS[field],) * 2, name
    for name, field in OF_COLUMN_IN_MIB.items():
        assert values[name] == (NUMBERS[field] / MIB,) * 2, name
    assert (values["kv_full_mb"], values["kv_range_full_mb"]) == (NUMBERS["full_bytes"] / MIB, NUMBERS["range_full_bytes"] / MIB)


def test_every_quality_column_reads_its_own_figure() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    values = values_of(result(instance, RUN))
    assert {name: values[name] for name in OF_QUALITY} == OF_QUALITY


def test_quality_that_was_not_measured_is_none_column_by_column() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    unmeasured = values_of(replace(result(instance, RUN), quality=None))
    assert [unmeasured[name] for name in OF_QUALITY] == [None] * len(OF_QUALITY)
    lossless = replace(QUALITY, readings={role: READINGS[role] for role in ("full", "kv")})
    values = values_of(replace(result(instance, RUN), quality=lossless))
    controls = {name for name in OF_QUALITY if name.endswith(("_random", "_window"))}
    assert {name for name in OF_QUALITY if values[name] is None} == controls
    nothing_asked = values_of(replace(result(instance, RUN), quality=Quality(0, 0, {"full": Reading(*[None] * 5)})))
    assert [nothing_asked[name] for name in OF_QUALITY] == [None] * len(OF_QUALITY)


def test_decode_speed_divides_by_the_tokens_that_were_decoded_and_not_by_n() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    values = values_of(result(instance, RUN, replace(RUN, prefill_s=1.0, decode_tokens=50)))
    assert values["speed(tok/s)"] == ((128.0, 64.0), (25.0, 12.5))
    assert values["decode_tokens"] == (100.0, 50.0)


def test_a_number_that_one_repeat_did_not_measure_is_not_measured() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    values = values_of(result(instance, RUN, replace(RUN, report=replace(REPORT, coverage=None))))
    assert values["lossless_coverage"] is None
    assert values["h2o_lossy"] is not None


def test_kept_tokens_name_every_layer_and_a_part_out_of_scope_and_turns_not_played_are_not_measured() -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    played = values_of(replace(result(instance, RUN), turns_mismatch_rows=3))
    assert (played["kept_tokens"], played["turns_mismatch_rows"]) == ("9,9,4", 3.0)
    front_only = replace(RUN, report=replace(REPORT, encoded_kept_bytes=None))
    values = values_of(replace(result(instance, front_only, front_only), turns_mismatch_rows=None))
    assert (values["lossless_kept_mb"], values["turns_mismatch_rows"]) == (None, None)
    assert values["lossless_front_mb"] == (NUMBERS["encoded_front_bytes"] / MIB,) * 2


def test_a_row_of_kv_false_counts_the_tokens_and_the_time_of_its_kind() -> None:
    pp, tg, pg = instances_of("-m m -p 64 -n 100 -pg 60,30")
    assert [values_of(result(instance, RUN))["t/s"] for instance in (pp, tg, pg)] == [(128.0,), (25.0,), (20.0,)]


@pytest.mark.parametrize("seconds", [0.0, float("nan"), float("inf")])
def test_a_speed_that_is_no_finite_number_is_refused(seconds: float) -> None:
    (instance,) = instances_of("-m m -kv true -p 64 -n 200")
    with pytest.raises(EngineError, match="speed: expected a time > 0"):
        values_of(result(instance, replace(RUN, decode_s=seconds)))


def test_an_optional_column_appears_when_one_instance_is_off_its_default() -> None:
    names = [column.name for column in columns_of(instances_of("-m m -c 1 -scn 2,4 -mr 40"), False, True)]
    assert names == [
        "model",
        "modelSize",
        "backend",
        "threads",
        "precision",
        "divisionRatioSme2Neon",
        "smeCoreNum",
        "test",
        "t/s",
        "loadingTime(s)",
    ]


def test_the_warm_up_run_is_dropped(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(f'{{"base_dir": "{tiny_folder}/"}}', encoding="utf-8")
    (instance,) = instances_of(f"-m {config} -kv true -t 1 -p 8 -n 3")
    loaded = load(config, "text", 2)
    assert len(loaded.loading_s) == 2
    assert len(measure_instance(loaded, instance, 3, None).runs) == 3
