from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from h2o_gate_plugin.bench_columns import COLUMNS, NOT_MEASURED_CELL
from h2o_gate_plugin.kv.dump import read_dump
from h2o_gate_plugin.runtime.llm_bench import main

WriteConfig = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

H2O: dict[str, Any] = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 8,
    "kv_h2o_sink_tokens": 4,
    "kv_h2o_recent_tokens": 16,
    "kv_h2o_target_lossy_ratio": 3.2,
    "kv_h2o_trigger_min_tokens": 64,
}
LOSSLESS: dict[str, Any] = {
    "kv_lossless_enable": True,
    "kv_lossless_runtime_enable": True,
    "kv_lossless_scope": "front_n",
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_runtime_mode": "full",
    "kv_lossless_block_tokens": 32,
    "kv_lossless_store_bootstrap_tokens": 32,
    "kv_lossless_hot_recent_tokens": 16,
    "kv_lossless_hot_sink_tokens": 4,
}
CONTRACT_COLUMNS = """
    model modelSize backend threads precision llm_demo speed(tok/s) h2o_keep h2o_lossy h2o_lossless h2o_target_keep_effective
    h2o_floor_keep h2o_quantized_keep h2o_evict_us h2o_codec_us h2o_lossless_raw_mb h2o_lossless_comp_mb h2o_lossless_comp_us
    h2o_lossless_decomp_us h2o_lossless_queue_peak h2o_lossless_fallback h2o_lossless_backpressure_skip h2o_lossless_async_queue_peak
    h2o_lossless_async_wait_us h2o_lossless_decode_cache_hit h2o_lossless_decode_cache_miss kv_full_mb kv_resident_mb kv_peak_mb
    kv_range_full_mb kv_range_resident_mb lossless_coverage kv_mismatch_blocks decode_tokens prompt_kind nll_full nll_kv kl_mean
    top1_agree recall_full recall_kv recall_first_full recall_first_kv kl_mean_random kl_mean_window recall_random recall_window
    quality_prompts recall_answers kept_tokens lossless_front_mb lossless_kept_mb turns_mismatch_rows kv_range_decode_mb kl_masked
"""
CONTRACT_HEADER = tuple(CONTRACT_COLUMNS.split())
NUMBER = r"\d+\.\d{%d}"
CELLS = {
    "text": r"[\w+,]+",
    "integer": r"\d+",
    "bytes": r"\d+\.\d\d [MG]iB",
    "llm_demo": r"prompt=\d+<br>decode=\d+",
    "speed": r"\d+\.\d\d ± \d+\.\d\d<br>\d+\.\d\d ± \d+\.\d\d",
}


def cells(line: str) -> list[str]:
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [text.strip() for text in line[1:-1].split("|")]


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows of the one table in ``text``, each cell checked against the contract's grammar."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    header, rows = cells(table[0]), [cells(line) for line in table[2:]]
    for name, rule in zip(header, cells(table[1]), strict=True):
        assert re.fullmatch(r"-+:" if COLUMNS[name].right_aligned else r"-+", rule)
    for row in rows:
        for name, cell in zip(header, row, strict=True):
            column = COLUMNS[name]
            number = NUMBER % column.decimals if column.decimals else r"\d+"
            pattern = CELLS.get(column.form, number if column.form == "number" else f"{number} ± {number}")
            assert re.fullmatch(f"{pattern}|{NOT_MEASURED_CELL}", cell), (name, cell)
    return [dict(zip(header, row, strict=True)) for row in rows]


def mean(cell: str) -> float:
    return float(cell.split(" ± ")[0])


def bench(capsys: Capture, config: Path, line: str) -> str:
    """Run with -kv true, check that it succeeded quietly, and return its stdout."""
    assert main(["-m", str(config), "-t", "1", "-kv", "true", *line.split()]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_help_exits_with_0_and_an_unknown_flag_with_255_in_the_words_of_the_contract(capsys: Capture) -> None:
    assert main(["-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: llm_bench")
    assert main(["-p", "8", "--frobnicate"]) == 255
    captured = capsys.readouterr()
    assert captured.err == "error: invalid parameter for argument: --frobnicate\n"
    assert captured.out.startswith("usage: llm_bench")


def test_the_table_of_a_plain_run_has_the_columns_of_the_contract_in_order(bench_config: WriteConfig, capsys: Capture) -> None:
    rows = rows_of(bench(capsys, bench_config(), "-p 40,20 -n 6 -rep 2"))
    assert tuple(rows[0]) == CONTRACT_HEADER
    assert [row["llm_demo"] for row in rows] == ["prompt=40<br>decode=6", "prompt=20<br>decode=6"]
    row = rows[0]
    assert (row["model"], row["backend"], row["threads"], row["precision"]) == ("tiny", "CPU", "1", "Low")
    assert (row["h2o_lossy"], row["h2o_lossless"], row["lossless_coverage"]) == ("n/a", "n/a", "n/a")
    assert (row["decode_tokens"], row["prompt_kind"]) == ("6.00 ± 0.00", "text")
    assert (row["nll_full"], row["kl_mean"], row["top1_agree"]) == (row["nll_kv"], "0.0000", "1.0000")
    assert float(row["kv_full_mb"]) == pytest.approx(46 * 3 * 2 * 2 * 2 * 8 / 2**20, abs=1e-4)


def test_eviction_shows_in_its_columns_and_its_log_lines_stay_out_of_the_file(
    bench_config: WriteConfig, capsys: Capture, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    out = bench(capsys, bench_config(**H2O, kv_h2o_log_stats=True), f"-p 200,300 -n 10 -rep 2 -fp {log}")
    lines = out.splitlines()
    assert len(lines) == 2 * 2, "one plan of two layers for each prompt: the last repeat's lines alone"
    assert all(line.startswith("[H2O] layer=") for line in lines)
    for row in rows_of(log.read_text(encoding="utf-8")):
        assert 3.0 < mean(row["h2o_lossy"]) < 3.3
        assert mean(row["h2o_keep"]) == pytest.approx(1 / mean(row["h2o_lossy"]), abs=2e-3)
        assert mean(row["kv_range_resident_mb"]) < 0.75 * mean(row["kv_range_full_mb"])
        assert float(row["kl_mean"]) > 0.0
    assert bench(capsys, bench_config(**H2O), f"-p 200 -n 4 -rep 1 -fp {log}") == "", "no log lines unless asked for"


def test_a_second_process_appends_a_second_header(bench_config: WriteConfig, capsys: Capture, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for _ in range(2):
        bench(capsys, bench_config(), f"-p 8 -n 2 -rep 1 -fp {log}")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6
    assert lines[0] == lines[3]
    assert lines[0].startswith("| model")


@pytest.mark.parametrize("mode", ["full", "store"])
def test_a_lossless_configuration_changes_no_logit_at_all(bench_config: WriteConfig, capsys: Capture, mode: str) -> None:
    keys = LOSSLESS | {"kv_lossless_runtime_mode": mode, "kv_lossless_store_grouped_step_tokens": 32}
    (row,) = rows_of(bench(capsys, bench_config(**keys), "-p 200 -n 24 -rep 2"))
    assert (row["kl_mean"], row["top1_agree"], row["nll_kv"]) == ("0.0000", "1.0000", row["nll_full"])
    assert mean(row["h2o_lossless_comp_mb"]) > 0.0 or mean(row["h2o_lossless_fallback"]) > 0.0
    assert row["kv_mismatch_blocks"] == "0.00 ± 0.00"
    assert mean(row["lossless_coverage"]) > 0.0
    assert (row["kept_tokens"], row["lossless_kept_mb"], row["turns_mismatch_rows"]) == ("224,224,224", "n/a", "0")
    assert mean(row["lossless_front_mb"]) > 0.0


def test_a_constant_prompt_is_flagged_and_has_no_quality(
    bench_config: WriteConfig, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_BENCH_PROMPT", "constant")
    (row,) = rows_of(bench(capsys, bench_config(), "-p 16 -n 2 -rep 1"))
    assert [row[name] for name in ("prompt_kind", "nll_full", "kl_mean", "recall_kv")] == ["constant", "n/a", "n/a", "n/a"]


def test_with_kv_false_there_is_one_speed_a_row_and_no_kv_column(bench_config: WriteConfig, capsys: Capture) -> None:
    line = f"-m {bench_config()} -t 1 -p 16,8 -n 3 -pg 5,2 -rep 1 -load true --memory 1 -mmp 1"
    assert main(line.split()) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows[0]) == ["model", "modelSize", "backend", "threads", "precision", "memory", "mmap", "test", "t/s", "loadingTime(s)"]
    assert [row["test"] for row in rows] == ["pp16", "pp8", "tg3", "pp5+tg2"]
    assert (rows[0]["memory"], rows[0]["mmap"]) == ("High", "true")
    assert all(mean(row["t/s"]) > 0 for row in rows)


def test_the_json_has_one_entry_an_instance_with_a_std_for_every_mean(bench_config: WriteConfig, capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    bench(capsys, bench_config(**H2O), f"-p 200 -n 6,4 -rep 2 -j {path}")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {"model", "modelSize", "backend", "threads", "useMmap", "precision", "memory", "power", "attentionOption", "results"} == set(
        document
    )
    first, second = document["results"]
    assert (first["type"], first["prompt_len"], first["generate_len"], second["generate_len"]) == ("prefill_and_decode", 200, 6, 4)
    for name in CONTRACT_HEADER[7:]:
        column = COLUMNS[name]
        assert column.json_key in first
        assert (f"{column.json_key}_std" in first) == (column.form == "mean_sd")
    assert first["decode_tps"] > 0
    assert first["h2o_lossy_ratio_std"] == 0.0
    assert first["h2o_lossless_ratio"] is None
    main(["-m", str(bench_config()), *f"-t 1 -p 8 -n 2 -rep 1 -j {path}".split()])
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert [(entry["type"], set(entry) - {"prompt_len", "generate_len", "type"}) for entry in results] == [
        ("prefill", {"tps", "std"}),
        ("decode", {"tps", "std"}),
    ]


def test_the_dump_of_several_instances_goes_to_several_run_ids(
    bench_config: WriteConfig, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MNN_KV_DUMP_DIR", str(tmp_path / "dump"))
    monkeypatch.setenv("MNN_KV_DUMP_RUN_ID", "abc")
    bench(capsys, bench_config(), "-p 16,8 -n 4 -rep 1")
    dump = read_dump(tmp_path / "dump")
    assert {entry.run_id for entry in dump.entries} == {"abc_p16_n4", "abc_p8_n4"}
    assert {(e.stage, e.seq_start, e.seq_len) for e in dump.entries if e.run_id == "abc_p16_n4"} == {("prefill", 0, 16), ("decode", 16, 4)}


@pytest.mark.parametrize(
    ("keys", "line", "message"),
    [
        ({"kv_h2o_enabel": True}, "", "kv_h2o_enabel: unknown key, did you mean 'kv_h2o_enable'?"),
        ({"kv_h2o_enable": "true"}, "", "kv_h2o_enable: expected true or false, got 'true'"),
        ({"kv_h2o_target_mode": "dynamic"}, "", "kv_h2o_target_mode: expected one of static, adaptive"),
        ({"kv_h2o_enable": True, "kv_h2o_layer_end": 3}, "", "got 2 to 3"),
        ({"base_dir": "nowhere/"}, "", "base_dir: expected an existing model folder"),
        ({}, "-n 0", "no instance to run"),
        ({}, "-p 1000 -n 25", "-p 1000 -n 25: expected at most 1024 tokens together"),
        ({}, "-p 8 -a opencl", "-a: expected cpu"),
        ({"kv_h2o_enable": True}, "-p 8 -qatten 1", "-qatten: expected 0"),
        ({}, "-p 8 -fp /nowhere/at/all", "/nowhere/at/all: file: expected a file in an existing folder"),
        ({}, "-m none.json", "none.json: file: expected a readable file"),
    ],
)
def test_what_cannot_run_ends_with_1_and_one_line(
    bench_config: WriteConfig, capsys: Capture, keys: dict[str, Any], line: str, message: str
) -> None:
    config = bench_config(**keys)
    argv = [*line.split(), "-t", "1", "-kv", "true", "-rep", "1"]
    assert main(argv if "-m" in argv else ["-m", str(config), *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("llm_bench: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(("name", "value"), [("H2O_BENCH_PROMPT", "x"), ("MNN_KV_DUMP_STAGE", "x"), ("MNN_KV_DUMP_RUN_ID", "../x")])
def test_a_bad_environment_ends_with_1_before_anything_is_printed(
    bench_config: WriteConfig, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("MNN_KV_DUMP_DIR", str(tmp_path / "dump"))
    monkeypatch.setenv(name, value)
    assert main(["-m", str(bench_config()), "-t", "1", "-p", "8", "-n", "2", "-rep", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert name in captured.err
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("error")
def test_weights_that_give_nan_end_with_1_and_print_no_row(
    make_checkpoint: Callable[..., Path], bench_config: WriteConfig, capsys: Capture
) -> None:
    folder = make_checkpoint()
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["model.norm.weight"] = np.full(24, np.nan, dtype=np.float16)
    save_file(tensors, str(folder / "model.safetensors"))
    assert main(["-m", str(bench_config(base_dir=str(folder))), "-t", "1", "-kv", "true", "-p", "8", "-n", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "logits: expected finite numbers, got nan" in captured.err


def test_the_module_runs_as_a_program(bench_config: WriteConfig) -> None:
    line = f"-m {bench_config()} -t 1 -kv true -p 8 -n 2 -rep 1"
    command = [sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows_of(done.stdout)) == 1
