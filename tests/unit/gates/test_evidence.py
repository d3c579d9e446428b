"""Measurement → evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, Role
from h2o_gate_plugin.bench.process import ProcessResult
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.gates.evidence import CaseEvidence, configuration_of, evidence_of, without_measurement


def record(role: Role, run_id: str, config: Path | None = None, error: str | None = None, source: str = "run.log") -> ProcessRecord:
    row = BenchRow(source, 3, {}, 512, 128, None, None, {})
    return ProcessRecord(role, 1, run_id, config, None, (row,), error)


def measurement(*records: ProcessRecord, mode: str | None = "full") -> CaseMeasurement:
    return CaseMeasurement("key", "plan", "label", Path(), mode, "embedded", 1, True, len(records), records)


def configuration(of: ProcessRecord) -> str:
    return configuration_of(of, of.rows[0])


def test_roles_are_kept_apart_and_failed_processes_give_no_rows() -> None:
    found = evidence_of(
        "m3/a-1", measurement(record("baseline", "r1"), record("candidate", "r1"), record("candidate", "r2", error="exit code 3"))
    )
    assert [row.run_id for row in found.rows] == ["r1"]
    assert [row.run_id for row in found.baseline_rows] == ["r1"]
    assert found.failures == ("candidate r2: exit code 3",)


def test_rows_of_equal_config_files_are_one_configuration(tmp_path: Path) -> None:
    for name, text in (("a1", "{}"), ("a2", "{}"), ("b", '{"kv_h2o_block_tokens": 8}')):
        (tmp_path / name).write_text(text, encoding="utf-8")
    first, second, other = (configuration(record("candidate", "run_0001_p1_g1_k0.3", tmp_path / name)) for name in ("a1", "a2", "b"))
    assert first == second
    assert first != other


def test_without_a_config_file_the_run_id_names_the_configuration() -> None:
    ids = ("run_0001_p512_g128_k0.3_b32_lr3.2", "run_0002_p1024_g128_k0.3_b32_lr3.2", "run_0003_p512_g128_k0.3_b8_lr3.2", "joint_full")
    assert [configuration(record("candidate", run_id)) for run_id in ids] == ["k0.3_b32_lr3.2"] * 2 + ["k0.3_b8_lr3.2", "joint_full"]


def test_in_a_csv_of_parsed_logs_the_name_of_the_log_names_the_configuration() -> None:
    rows = (record("candidate", "h2o_metrics", source=f"logs/{name}.log") for name in ("run_0001_p512_g128_k0.3_b8", "plain"))
    assert [configuration(row) for row in rows] == ["k0.3_b8", "h2o_metrics"]


def test_a_run_id_that_says_nothing_but_lengths_is_the_default_configuration() -> None:
    assert configuration(record("candidate", "run_0001_p512_g128")) == "default"
    assert configuration(record("candidate", "run_0001_p512_g128_run_0002_p1_g1_x")) == "run_0002_p1_g1_x"


def process(folder: Path, argv: tuple[str, ...] = (), stdout: str = "", log: str = "") -> ProcessResult:
    """A process that ended well and left these outputs."""
    folder.mkdir(exist_ok=True)
    (folder / "stdout.txt").write_text(stdout, encoding="utf-8")
    (folder / "run.log").write_text(log, encoding="utf-8")
    return ProcessResult(argv, 0, None, 1.0, None, (), folder / "run.log", folder / "stdout.txt")


def test_a_row_brings_its_configuration_its_pair_and_what_its_process_ran_with(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"kv_h2o_block_tokens": 8, "llm_model": "ä"}', encoding="utf-8")
    made = replace(record("candidate", "r1", config), pair=3, result=process(tmp_path / "c", ("llm_bench", "-rep", "5", "-n", "7")))
    (row,) = evidence_of("m3/a-1", measurement(made)).rows
    assert (row.configuration, row.run_id, row.pair, row.repeats) == (configuration(made), "r1", 3, 5)
    assert row.bench == made.rows[0]
    assert row.number("kv_h2o_block_tokens") == 8
    assert row.number("kv_h2o_sink_tokens") == 32


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kv_h2o_blok_tokens": 8}', '{"kv_h2o_block_tokens": "8"}'])
def test_a_config_that_is_not_there_or_not_understood_is_not_known(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    (row,) = evidence_of("m3/a-1", measurement(record("candidate", "r1", config))).rows
    assert row.kv is None


MODEL = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64, "head_dim": 5}


def token_bytes(folder: Path, base_dir: str | None, text: str) -> int | None:
    """Of a process whose model's config.json is ``text``."""
    (folder / (base_dir or "")).mkdir(exist_ok=True)
    (folder / (base_dir or "") / "config.json").write_text(text, encoding="utf-8")
    config = folder / "bench.json"
    config.write_text(json.dumps({} if base_dir is None else {"base_dir": base_dir}), encoding="utf-8")
    (row,) = evidence_of("m3/a-1", measurement(record("candidate", "r1", config))).rows
    return row.kv_token_bytes


@pytest.mark.parametrize("base_dir", ["model", "", None])
def test_a_tokens_kv_is_layers_times_kv_heads_times_head_size_in_16_bits_twice(tmp_path: Path, base_dir: str | None) -> None:
    assert token_bytes(tmp_path, base_dir, json.dumps(MODEL)) == 3 * 2 * 5 * 2 * 2


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"head_dim": None}, 3 * 2 * 8 * 4),
        ({"num_key_value_heads": 1}, 3 * 1 * 5 * 4),
        ({"num_key_value_heads": 0}, None),
        ({"num_hidden_layers": 2.5}, None),
        ({"num_attention_heads": 0, "head_dim": None}, None),
        ({"hidden_size": "64", "head_dim": None}, None),
    ],
)
def test_a_head_size_follows_from_the_width_and_sizes_that_are_none_are_not_known(
    tmp_path: Path, over: dict[str, object], expected: int | None
) -> None:
    assert token_bytes(tmp_path, "", json.dumps(MODEL | over)) == expected


def test_without_heads_of_their_own_k_and_v_have_those_of_attention_and_a_model_that_is_not_understood_is_not_known(tmp_path: Path) -> None:
    plain = {key: value for key, value in MODEL.items() if key != "num_key_value_heads"}
    assert token_bytes(tmp_path, "", json.dumps(plain)) == 3 * 8 * 5 * 4
    for text in ("{", "[]", "{}"):
        assert token_bytes(tmp_path, "", text) is None


@pytest.mark.parametrize(("argv", "repeats"), [((), None), (("-rep",), None), (("-rep", "x"), None), (("-n", "5", "-rep", "3"), 3)])
def test_repeats_are_those_of_the_command_line(tmp_path: Path, argv: tuple[str, ...], repeats: int | None) -> None:
    made = replace(record("candidate", "r1"), result=process(tmp_path, argv))
    (row,) = evidence_of("m3/a-1", measurement(made)).rows
    assert row.repeats == repeats


def test_a_candidates_row_brings_both_outputs_of_its_own_process(tmp_path: Path) -> None:
    first = replace(record("candidate", "r1"), result=process(tmp_path / "1", stdout="checksum error\n"))
    second = replace(record("candidate", "r1"), pair=2, result=process(tmp_path / "2", log="logits: nan\n"))
    clean = replace(record("baseline", "r1"), pair=2, result=process(tmp_path / "b"))
    found = evidence_of("m3/a-1", measurement(first, second, clean, record("candidate", "r2")))
    assert [row.log.broken if row.log else None for row in found.rows] == [
        ("stdout.txt:1: checksum error",),
        ("run.log:1: logits: nan",),
        None,
    ]
    assert [row.log for row in found.baseline_rows] == [None]
    assert found.case_id == "m3/a-1"


def test_results_made_elsewhere_have_no_known_mode_and_no_measurement_is_a_failure() -> None:
    assert evidence_of("runtime/x", measurement(record("candidate", "x"), mode=None)).runtime_mode == "unknown"
    assert without_measurement("m3/a-1", "full", "no engine") == CaseEvidence("m3/a-1", "full", (), (), ("no engine",))
