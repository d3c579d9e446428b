from __future__ import annotations

from h2o_gate_plugin.bench_columns import ASYNC_COLUMNS, COLUMNS, EVIDENCE_COLUMNS, H2O_COLUMNS


def test_the_h2o_columns_stand_in_the_contracts_order() -> None:
    assert [column.name for column in (*H2O_COLUMNS, *ASYNC_COLUMNS)] == [
        "h2o_keep", "h2o_lossy", "h2o_lossless", "h2o_target_keep_effective", "h2o_floor_keep", "h2o_quantized_keep", "h2o_evict_us",
        "h2o_codec_us", "h2o_lossless_raw_mb", "h2o_lossless_comp_mb", "h2o_lossless_comp_us", "h2o_lossless_decomp_us",
        "h2o_lossless_queue_peak", "h2o_lossless_fallback", "h2o_lossless_backpressure_skip", "h2o_lossless_async_queue_peak",
        "h2o_lossless_async_wait_us", "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss",
    ]  # fmt: skip


def test_keeps_have_four_decimals_ratios_three_and_the_rest_two() -> None:
    decimals = {column.name: column.decimals for column in H2O_COLUMNS}
    assert {name for name, n in decimals.items() if n == 4} == {
        "h2o_keep", "h2o_target_keep_effective", "h2o_floor_keep", "h2o_quantized_keep",
    }  # fmt: skip
    assert {name for name, n in decimals.items() if n == 3} == {"h2o_lossy", "h2o_lossless"}


def test_every_evidence_column_has_a_unit_or_is_text() -> None:
    for column in EVIDENCE_COLUMNS:
        assert column.unit or column.form == "text", column.name


def test_column_names_and_json_keys_are_unique() -> None:
    keys = [column.json_key for column in COLUMNS.values() if column.json_key]
    assert len(keys) == len(set(keys))
    assert all(name == column.name for name, column in COLUMNS.items())
