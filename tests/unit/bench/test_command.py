"""The subcommands bench, sweep and parse, from their arguments to files and exit code."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.command import KV_FLAGS, mount
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.errors import ConfigError, TableError
from h2o_gate_plugin.kv_options import KV_OPTIONS

SEED_BENCH_FLAGS = (
    "--llm-bench",
    "--base-config",
    "--out-dir",
    "--backend",
    "--threads",
    "--attention-option",
    "--prompts",
    "--gens",
    "--repeat",
    "--h2o-keep-ratios",
    "--h2o-block-tokens",
    "--h2o-sink-tokens",
    "--h2o-recent-tokens",
    "--h2o-ema-alphas",
    "--h2o-update-intervals",
    "--h2o-trigger-min-tokens",
    "--h2o-layer-start",
    "--h2o-layer-end",
    "--h2o-target-mode",
    "--h2o-target-lossy-ratios",
    "--h2o-log-stats",
    "--kv-lossless-enable",
    "--kv-lossless-scope",
    "--kv-lossless-front-n",
    "--kv-lossless-codec",
    "--kv-lossless-runtime-enable",
    "--kv-lossless-runtime-mode",
    "--dry-run",
)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="h2o-gate")
    mount(root.add_subparsers(required=True))
    return root


def run(*words: object) -> int:
    args = parser().parse_args([str(word) for word in words])
    code: int = args.run(args)
    return code


def engine_words(scripted: Any, **scenario: Any) -> list[object]:
    engine = scripted(**scenario).engine
    return ["--llm-bench", engine.name, "--base-config", engine.base_config]


def test_every_option_of_the_seeds_bench_script_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("bench", "--help")
    shown = capsys.readouterr().out
    assert [flag for flag in SEED_BENCH_FLAGS if not re.search(rf"^\s+{flag}\b", shown, re.MULTILINE)] == []
    assert set(KV_FLAGS) == set(KV_OPTIONS)
    assert len(set(KV_FLAGS.values())) == len(KV_OPTIONS)


def test_bench_sweeps_comma_lists_and_writes_configs_logs_and_manifest(tmp_path: Path, scripted: Any) -> None:
    out = tmp_path / "out"
    words = ["--prompts", "16,32", "--gens", "4", "--repeat", "1", "--h2o-block-tokens", "8,32", "--h2o-log-stats", "false"]
    assert run("bench", *engine_words(scripted), "--out-dir", out, *words) == 0
    names = [
        "run_0001_p16_g4_k0.3_b8_lr3.2",
        "run_0002_p32_g4_k0.3_b8_lr3.2",
        "run_0003_p16_g4_k0.3_b32_lr3.2",
        "run_0004_p32_g4_k0.3_b32_lr3.2",
    ]
    assert sorted(path.stem for path in (out / "configs").iterdir()) == names
    assert sorted(path.stem for path in (out / "logs").iterdir()) == names
    manifest = json.loads((out / "manifest.json").read_text())
    assert [item["run_id"] for item in manifest["runs"]] == names
    assert manifest["runs"][0]["result"]["argv"][1:3] == ["-m", str(out / "configs" / f"{names[0]}.json")]
    config = json.loads((out / "configs" / f"{names[2]}.json").read_text())
    assert (config["kv_h2o_block_tokens"], config["kv_h2o_log_stats"]) == (32, False)
    assert [case.label for case in load_measurements(out)] == names


def test_a_failed_run_makes_exit_code_2_and_the_others_go_on(tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = engine_words(scripted, rules=[{"when": {"prompt": 16}, "exit": 9, "stderr": "boom"}])
    out = tmp_path / "out"
    assert run("bench", *words, "--out-dir", out, "--prompts", "16,32", "--gens", "4", "--repeat", "1") == 2
    printed = capsys.readouterr().out
    assert re.search(r"\[1/2\] run_0001\S*: FAILED after .* s: exit code 9: boom; argv: .*scripted_llm_bench", printed)
    assert re.search(r"\[2/2\] run_0002\S*: .* s, decode 200\.00 tok/s, h2o_lossy 3\.200", printed)
    errors = [item["error"] for item in json.loads((out / "manifest.json").read_text())["runs"]]
    assert errors == ["exit code 9: boom", None]


def test_an_engine_that_fails_in_every_run_makes_exit_code_2_too(tmp_path: Path, scripted: Any) -> None:
    words = engine_words(scripted, default={"exit": 9})
    assert run("bench", *words, "--out-dir", tmp_path / "out", "--prompts", "16", "--gens", "4", "--repeat", "1") == 2


def test_a_dry_run_prints_the_calls_and_writes_nothing(tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompts", "16", "--gens", "4", "--h2o-keep-ratios", "0.28,0.3", "--threads", "3", "--attention-option", "1"]
    assert run("bench", *engine_words(scripted), "--out-dir", tmp_path / "out", "--dry-run", *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(
        f"-a cpu -t 3 -qatten 1 -kv true -p 16 -n 4 -rep 2 -fp {tmp_path}/out/logs/run_0001_p16_g4_k0.28_b32_lr3.2.log"
    )
    assert not (tmp_path / "out").exists()


def test_sweep_runs_a_preset_file(tmp_path: Path, scripted: Any) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("prompts: [16]\ngens: [4]\nrepeat: 1\nkv: {kv_lossless_runtime_mode: [full, store]}\n")
    out = tmp_path / "out"
    assert run("sweep", *engine_words(scripted), "--preset", preset, "--out-dir", out, "--threads", "1") == 0
    configs = [json.loads(path.read_text()) for path in sorted((out / "configs").iterdir())]
    assert [config["kv_lossless_runtime_mode"] for config in configs] == ["full", "store"]
    assert [config["kv_lossless_store_disable_front"] for config in configs] == [False, True]


def test_a_sweep_of_something_else_into_the_same_folder_is_refused(tmp_path: Path, scripted: Any) -> None:
    words = [*engine_words(scripted), "--out-dir", tmp_path / "out", "--gens", "4"]
    assert run("bench", *words, "--prompts", "16") == 0
    with pytest.raises(ConfigError, match=r"expected the sweep that was begun there, got another preset .*; choose another folder"):
        run("bench", *words, "--prompts", "32")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "512,"], "--prompts: expected an integer >= 1, got ''"),
        (["--gens", "0"], "--gens: expected an integer >= 1, got '0'"),
        (["--threads", "-1"], "--threads: expected an integer >= 1, got '-1'"),
        (["--prompts", "16,16"], "--prompts: expected each value once"),
        (["--h2o-block-tokens", "8,8"], "--h2o-block-tokens: expected each value once"),
        (["--h2o-block-tokens", "8.0"], "--h2o-block-tokens: kv_h2o_block_tokens: expected an integer >= 1, got '8.0'"),
        (["--h2o-block-tokens", ""], "kv_h2o_block_tokens: expected an integer >= 1, got ''"),
        (["--h2o-keep-ratios", "nan"], "kv_h2o_target_keep_ratio: expected a number"),
        (["--h2o-target-lossy-ratios", "inf"], "kv_h2o_target_lossy_ratio: expected a number"),
        (["--h2o-log-stats", "maybe"], "kv_h2o_log_stats: expected true or false, got 'maybe'"),
        (["--kv-lossless-runtime-mode", "ful"], "did you mean 'full'"),
        (["--kv-lossless-predictors-k", "raw,xor"], "kv_lossless_predictors_k: expected a comma list"),
        (["--llm-bench", "/bin/true"], "--base-config: expected the model's config.json with --llm-bench"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run("bench", "--out-dir", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_parse_counts_a_file_once_however_often_it_is_named(tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run("bench", *engine_words(scripted), "--out-dir", out, "--prompts", "16,32", "--gens", "4")
    log = next((out / "logs").iterdir())
    csv = tmp_path / "new" / "m.csv"
    capsys.readouterr()
    assert run("parse", "--log-dir", out / "logs", "--log-files", log, f"{log},{out}/logs/../logs/{log.name}", "--out-csv", csv) == 0
    assert capsys.readouterr().out == f"{csv}: 2 rows from 2 logs\n"
    assert [len(case.rows()) for case in load_measurements(csv)] == [2]


def test_parse_without_logs_or_with_a_bad_one_writes_nothing(tmp_path: Path) -> None:
    csv = tmp_path / "m.csv"
    (tmp_path / "bad.log").write_text("no table\n")
    with pytest.raises(ConfigError, match="expected --log-dir with"):
        run("parse", "--out-csv", csv)
    with pytest.raises(ConfigError, match="no such folder"):
        run("parse", "--log-dir", tmp_path / "absent", "--out-csv", csv)
    with pytest.raises(TableError, match=r"bad\.log: log: expected an llm_bench table"):
        run("parse", "--log-dir", tmp_path, "--out-csv", csv)
    assert not csv.exists()
