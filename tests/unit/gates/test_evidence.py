"""Measurement → evidence."""

from __future__ import annotations

from pathlib import Path

from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, Role
from h2o_gate_plugin.bench.table import BenchRow
from h2o_gate_plugin.gates.evidence import configuration_of, evidence_of, without_measurement


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


def test_results_made_elsewhere_have_no_known_mode_and_no_measurement_is_a_failure() -> None:
    assert evidence_of("runtime/x", measurement(record("candidate", "x"), mode=None)).runtime_mode == "unknown"
    assert without_measurement("m3/a-1", "full", "no engine").failures == ("no engine",)
