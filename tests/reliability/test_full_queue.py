"""A codec too slow for the decode loop, end to end: groups are refused and counted, nothing is lost, and the gates tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from h2o_gate_plugin.bench.engine import REFERENCE_BENCH_CONFIG
from h2o_gate_plugin.bench.table import BenchRow, parse_log
from h2o_gate_plugin.kv_options import KvValue, suite_values

ENGINE = Path(__file__).with_name("queued_llm_bench.py")
ACCEPTANCE = Path(__file__).parents[1] / "acceptance"
N_PROMPT, N_GEN, MAX_QUEUE = 256, 48, 2
LIMIT_S = 120
SMALL_GROUPS: dict[str, KvValue] = {
    "kv_h2o_trigger_min_tokens": 64,
    "kv_h2o_recent_tokens": 32,
    "kv_h2o_target_lossy_ratio": 3.3,
    "kv_h2o_block_tokens": 1,
    "kv_h2o_sink_tokens": 4,
    "kv_lossless_block_tokens": 16,
    "kv_lossless_hot_recent_tokens": 16,
    "kv_lossless_hot_sink_tokens": 4,
    "kv_lossless_store_disable_front": False,
    "kv_lossless_store_bootstrap_tokens": 16,
    "kv_lossless_store_grouped_step_tokens": 16,
    "kv_lossless_front_sample_token_interval": 1,
    "kv_lossless_kept_sample_layers": 0,
    "kv_lossless_kept_sample_token_interval": 1,
    "kv_lossless_async_threads": 1,
    "kv_lossless_max_queue": MAX_QUEUE,
}


@dataclass(frozen=True)
class Ran:
    row: BenchRow
    fingerprints: frozenset[str]

    def figure(self, column: str) -> float:
        return self.row.measures[column].mean


def argv_of(folder: Path, encoder: str, changes: Mapping[str, KvValue], repeat: int = 1) -> list[str]:
    """The engine on a config of its own in ``folder``; its table goes to ``table.log`` there."""
    folder.mkdir(exist_ok=True)
    base = json.loads(REFERENCE_BENCH_CONFIG.read_text(encoding="utf-8")) | {"base_dir": str(REFERENCE_BENCH_CONFIG.parent)}
    config = folder / "config.json"
    config.write_text(json.dumps(base | suite_values(SMALL_GROUPS | dict(changes), "test")), encoding="utf-8")
    words = ("-m", str(config), "-t", "1", "-kv", "true", "-p", str(N_PROMPT), "-n", str(N_GEN), "-rep", str(repeat))
    return [sys.executable, str(ENGINE), encoder, *words, "-fp", str(folder / "table.log")]


def run(folder: Path, encoder: str, **changes: KvValue) -> Ran:
    argv = argv_of(folder, encoder, changes)
    env = {**os.environ, "H2O_BENCH_QUALITY": "off"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = parse_log(folder / "table.log")
    return Ran(row, frozenset(line for line in done.stdout.splitlines() if line.startswith("fingerprint=")))


@pytest.mark.parametrize("mode", ["full", "store"])
def test_refused_groups_are_counted_and_no_token_position_or_word_differs_from_a_fast_codecs(mode: str, tmp_path: Path) -> None:
    fast = run(tmp_path / "fast", "sound", kv_lossless_runtime_mode=mode, kv_lossless_async_threads=0)
    slow = run(tmp_path / "slow", "slow", kv_lossless_runtime_mode=mode)
    assert slow.fingerprints == fast.fingerprints
    assert len(slow.fingerprints) == 1
    assert slow.figure("h2o_lossless_queue_peak") == slow.figure("h2o_lossless_async_queue_peak") == MAX_QUEUE
    assert slow.figure("h2o_lossless_backpressure_skip") > 10
    assert slow.figure("h2o_lossless_async_wait_us") > 1e5  # the end of the turn waits for what the queue holds
    for name in ("h2o_lossless_fallback", "kv_mismatch_blocks"):
        assert slow.figure(name) == 0.0
    assert fast.figure("h2o_lossless_backpressure_skip") == 0.0
    for name in ("lossless_coverage", "kv_resident_mb", "kv_range_resident_mb"):
        assert slow.figure(name) == fast.figure(name), f"{name}: what a full queue refused is made up for at the end of the turn"
    assert slow.figure("lossless_coverage") == 1.0


def gates(folder: Path, encoder: str, threads: int) -> Mapping[str, str]:
    """Gate → status of a pytest run of its own with the planted engine."""
    launcher = folder / "queued"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} {encoder} "$@"\n', encoding="utf-8")
    launcher.chmod(0o755)
    kv = SMALL_GROUPS | {"kv_lossless_runtime_mode": "store", "kv_lossless_async_threads": threads}
    preset = {"prompts": [N_PROMPT], "gens": [N_GEN], "repeat": 1, "kv": kv}
    (folder / "queue.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    words = ["-m", "runtime and (queue_peak or backpressure or kv_exact)", "--preset=queue.yaml", "--max-queue-peak=1", "-q"]
    words += [f"--llm-bench={launcher}", f"--model-config={REFERENCE_BENCH_CONFIG}", "--decode-pairs=1", "--decode-max-pairs=1"]
    words += ["--h2o-out=out", "--h2o-history=history", "-p", "no:cacheprovider"]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("H2O_", "PYTEST_"))} | {"TMPDIR": str(folder)}
    argv = [sys.executable, "-m", "pytest", str(ACCEPTANCE), *words]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (folder / "out" / "summary.json").is_file(), done.stdout + done.stderr
    (case,) = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))["cases"]
    return {gate["name"]: gate["status"] for gate in case["gates"]}


def test_the_gates_turn_red_and_stay_green_where_nothing_waits(tmp_path: Path) -> None:
    for name in ("slow", "control"):
        (tmp_path / name).mkdir()
    red = gates(tmp_path / "slow", "slow", threads=1)
    assert (red["runtime_queue_peak_pass"], red["backpressure_pass"], red["kv_exact_pass"]) == ("FAIL", "FAIL", "PASS")
    green = gates(tmp_path / "control", "sound", threads=0)
    assert (green["runtime_queue_peak_pass"], green["backpressure_pass"], green["kv_exact_pass"]) == ("PASS", "PASS", "PASS")


def test_a_bug_in_the_encoder_ends_the_run_while_other_groups_wait(tmp_path: Path) -> None:
    argv = argv_of(tmp_path, "failing", {"kv_lossless_runtime_mode": "store"})
    env = {**os.environ, "H2O_BENCH_QUALITY": "off"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert "full" in done.stdout.splitlines()
    assert "planted: a bug in the encoder" in done.stderr
    assert not (tmp_path / "table.log").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_queue_is_full_ends_the_engine(number: signal.Signals, tmp_path: Path) -> None:
    argv = argv_of(tmp_path, "slow", {"kv_lossless_runtime_mode": "store"}, repeat=1000)
    env = {**os.environ, "H2O_BENCH_QUALITY": "off"}
    # in a background job of a shell SIGINT is ignored, and a child inherits that
    start = "import signal, sys, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = sys.argv[1:]; "
    argv = [argv[0], "-c", f"{start}runpy.run_path(sys.argv[0], run_name='__main__')", *argv[1:]]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "full\n" for line in process.stdout), "the queue never filled"
        process.send_signal(number)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode != 0
    assert not (tmp_path / "table.log").exists()
