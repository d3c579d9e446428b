"""Measurements that lie on disk: our own, plain logs, CSVs made elsewhere; and the CSV's round trip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.metrics_csv import metrics_frame, read_metrics_csv, write_metrics_csv
from h2o_gate_plugin.bench.table import Measure, parse_text
from h2o_gate_plugin.errors import ConfigError, TableError

LOG = """\
| model | modelSize | threads | precision | llm_demo | speed(tok/s) | h2o_lossy | h2o_lossless | kl_mean | prompt_kind |
|---|---:|---:|---|---|---:|---:|---:|---:|---|
| a,"b" | 1.50 GiB | 4 | Low | prompt=512<br>decode=128 | 900.10 ± 3.20<br>95.50 ± 0.70 | 3.200 ± 0.010 | n/a | 0.0100 | text |
| a,"b" | 1.50 GiB | 4 | Low | prompt=1024<br>decode=128 | 901.10 ± 3.20<br>94.50 ± 0.70 | 3.100 ± 0.000 | 1.300 ± 0.100 | n/a | text |
"""


def test_rows_survive_the_round_trip_through_csv(tmp_path: Path) -> None:
    rows = parse_text(LOG, "logs/x.log")
    write_metrics_csv(tmp_path / "m.csv", rows)
    back = read_metrics_csv(tmp_path / "m.csv")
    assert [replace(row, text={}) for row in back] == [replace(row, text={}) for row in rows]
    assert back[0].text["model"] == 'a,"b"'
    assert back[0].text["prompt_kind"] == "text"
    assert back[0].text["h2o_lossless"] == ""


def test_the_frame_is_numbers_in_the_columns_units() -> None:
    frame = metrics_frame(parse_text(LOG, "x"), [{"case": "one"}, {"case": "two"}])
    assert list(frame.columns[:4]) == ["case", "source", "line", "prompt_tokens"]
    assert frame["h2o_lossy"].tolist() == [3.2, 3.1]
    assert frame["decode_tps"].mean() == 95.0
    assert frame["h2o_lossless"].isna().tolist() == [True, False]
    assert frame["prompt_tokens"].tolist() == [512, 1024]


def test_a_csv_made_elsewhere_may_use_the_tables_own_columns_and_cells(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.csv"
    path.write_text("llm_demo,speed(tok/s),h2o_lossy,h2o_lossless_decomp_us\nprompt=8<br>decode=4,9 ± 1<br>5 ± 0,3.2 ± 0.1,40\n")
    (row,) = read_metrics_csv(path)
    assert (row.prompt_tokens, row.gen_tokens, row.decode_tps) == (8, 4, Measure(5.0, 0.0))
    assert row.measures == {"h2o_lossy": Measure(3.2, 0.1), "h2o_lossless_decomp_us": Measure(40.0, None)}
    assert row.place == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"csv: expected a readable CSV"),
        ("a,b\n1,2\n", r":1: header: expected columns named like"),
        ("h2o_lossy\n", r"csv: expected at least one row"),
        ("h2o_lossy,h2o_lossy\n1,2\n", r":1: header: expected each column once, got 'h2o_lossy'"),
        ("h2o_lossy,h2o_keep\n1\n", r":2: row: expected 2 cells"),
        ("h2o_lossy\n1,2\n", r":2: row: expected 1 cells as in the header, got 2"),
        ('h2o_lossy\n"1', r"csv: expected a readable CSV"),
        ("h2o_lossy\nnan\n", r":2: h2o_lossy: expected a fixed-point number >= 0, got 'nan'"),
        ("h2o_lossy\n-1\n", r":2: h2o_lossy: .* got '-1'"),
        ("h2o_lossy,h2o_lossy_sd\n1,inf\n", r":2: h2o_lossy_sd: .* got 'inf'"),
        ("decode_tps\n0.0\n", r":2: decode_tps: expected a speed > 0"),
        ("decode_tps,prompt_tokens\n1.0,x\n", r":2: prompt_tokens: expected an integer"),
        ("speed(tok/s),threads\n1 ± 0<br>1 ± 0,four\n", r":2: threads: expected an integer"),
    ],
)
def test_a_bad_csv_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_metrics_csv(path)
    assert str(caught.value).startswith(str(path))


def test_a_folder_of_logs_is_one_case_per_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("run_b", "run_a"):
        (tmp_path / "logs" / f"{name}.log").write_text(LOG)
    cases = load_measurements(tmp_path)
    assert [case.label for case in cases] == ["run_a", "run_b"]
    assert all(case.complete and case.runtime_mode is None and len(case.rows()) == 2 for case in cases)
    assert load_measurements(tmp_path / "logs" / "run_a.log")[0].rows() == cases[0].rows()


def test_a_csv_is_split_by_its_case_and_role_columns(tmp_path: Path) -> None:
    rows = parse_text(LOG, "x.log") * 2
    tags = [
        {"case": case, "role": role, "pair": "2"} for case, role in (("a", "candidate"), ("a", "baseline"), ("b", "candidate"), ("b", ""))
    ]
    write_metrics_csv(tmp_path / "h2o_metrics.csv", rows, tags)
    cases = load_measurements(tmp_path)
    assert [(case.label, len(case.rows()), case.baseline) for case in cases] == [("a", 1, True), ("b", 2, False)]
    assert [record.pair for case in cases for record in case.processes] == [2, 2, 2, 2]


def test_a_csv_without_tags_is_one_case_named_by_its_stem(tmp_path: Path) -> None:
    write_metrics_csv(tmp_path / "h2o_metrics.csv", parse_text(LOG, "x.log"))
    (case,) = load_measurements(tmp_path)
    assert (case.label, len(case.rows())) == ("h2o_metrics", 2)


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("role,h2o_lossy\nwinner,9\n")
    with pytest.raises(ConfigError, match="role: expected baseline or candidate, got 'winner'"):
        load_measurements(tmp_path)


def test_our_own_measurements_come_before_logs_and_csvs(tmp_path: Path, scripted: Any, make_case: Any) -> None:
    case = measure_case(scripted().engine, make_case(), tmp_path / "out", pairs=1, timeout_s=60.0, progress=lambda event: None)
    (tmp_path / "out" / "h2o_metrics.csv").write_text("h2o_lossy\n99\n")
    assert load_measurements(tmp_path / "out") == (case,)


def test_nothing_to_load_is_an_error_that_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder, got no such folder"):
        load_measurements(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"expected measurement\.json files, \*\.log files or a \*\.csv, got none"):
        load_measurements(tmp_path)


def test_one_log_without_a_table_spoils_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG)
    (tmp_path / "b.log").write_text("crashed\n")
    with pytest.raises(TableError, match=r"b\.log: log: expected an llm_bench table"):
        load_measurements(tmp_path)
