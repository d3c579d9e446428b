"""Units measured by several threads: the same result, logs and skip reasons, one unit per thread in memory, and a prompt end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.dump import DumpWriter, read_dump
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.selection import Unit
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND, EvaluatorSettings
from h2o_gate_plugin.offline.unit import PartSums, UnitResult
from h2o_gate_plugin.offline.workers import job_count, thread_mapper, usable_cores

ALL = EvaluatorSettings(scope="layer_range")


@pytest.mark.parametrize("settings", [ALL, ONLINE_SIM, UPPER_BOUND], ids=["per_meta", "online_sim", "upper_bound"])
def test_any_number_of_jobs_gives_the_same_result_log_and_skip_reasons(own_dump_dir: Path, settings: EvaluatorSettings) -> None:
    (own_dump_dir / "run_a" / "layer_1" / "v_t0_75.bin").write_bytes(b"\0" * 100)
    (own_dump_dir / "run_b" / "layer_0" / "meta_t0_75.json").write_text("{")
    outcomes = []
    for jobs in (1, 2, 7):
        lines: list[str] = []
        outcomes.append((evaluate(own_dump_dir, settings, log=lines.append, mapper=thread_mapper(jobs)), lines))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][0].skip_reasons == {"bad_meta_json": 1, "size_mismatch": 1}


@pytest.mark.parametrize("jobs", [0, -1, 1025, True, "all", 1.5])
def test_a_number_of_jobs_that_cannot_be_is_one_line(jobs: object) -> None:
    with pytest.raises(ConfigError, match=r"--jobs: expected auto or an integer >= 1 and <= 1024, got"):
        job_count(jobs)  # type: ignore[arg-type]


def test_auto_is_the_cores_that_this_process_may_use() -> None:
    assert job_count("auto") == usable_cores() >= 1


def units_of(n: int, folder: Path) -> tuple[Unit, ...]:
    entry = read_dump(folder).entries[0]
    return tuple((replace(entry, seq_start=number),) for number in range(n))


def result_of(unit: Unit) -> UnitResult:
    return UnitResult(unit, PartSums(), PartSums(), {}, (str(unit[0].seq_start),))


def test_results_come_in_unit_order_though_the_first_unit_ends_last(dump_dir: Path) -> None:
    others_done, count = threading.Event(), []

    def measure(unit: Unit) -> UnitResult:
        if unit[0].seq_start == 0:
            assert others_done.wait(timeout=60)
        return result_of(unit)

    def finished(unit: Unit) -> None:
        count.append(unit[0].seq_start)
        if len(count) == 19:
            others_done.set()

    results = list(thread_mapper(2)(measure, units_of(20, dump_dir), finished))
    assert [int(result.lines[0]) for result in results] == list(range(20))
    assert count == [*range(1, 20), 0]


def test_an_error_in_a_thread_is_raised_and_no_further_unit_is_started(dump_dir: Path) -> None:
    started: list[int] = []

    def measure(unit: Unit) -> UnitResult:
        started.append(unit[0].seq_start)
        raise MemoryError("on purpose")

    with pytest.raises(MemoryError, match="on purpose"):
        list(thread_mapper(2)(measure, units_of(50, dump_dir), lambda unit: None))
    assert len(started) <= 2


def test_an_iterator_that_is_left_starts_no_further_unit(dump_dir: Path) -> None:
    permits, started = threading.Semaphore(3), []

    def measure(unit: Unit) -> UnitResult:
        assert permits.acquire(timeout=60)
        started.append(unit[0].seq_start)
        return result_of(unit)

    results = thread_mapper(2)(measure, units_of(50, dump_dir), lambda unit: None)
    assert isinstance(results, Iterator)
    with closing(results):  # type: ignore[type-var]
        next(results)
    permits.release(50)
    for thread in threading.enumerate():
        if thread.name.startswith("h2o-gate-offline"):
            thread.join(timeout=60)
    assert len(started) <= 5


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_is_bounded_by_the_units_at_hand_and_not_by_the_dump(tmp_path: Path, jobs: int) -> None:
    rng = np.random.default_rng(0)
    words = rng.normal(size=(64, 2, 512)).astype(np.float16).view(np.uint16)  # 128 KiB, K and V
    for run in range(60):
        DumpWriter(tmp_path, f"run_{run}").write(0, words, words, 0, "prefill")
    evaluate(tmp_path, EvaluatorSettings(front_n=1, codec_mode="legacy"))  # what is compiled and imported once
    unit_bytes, dump_bytes = 2 * words.nbytes, 60 * 2 * words.nbytes
    tracemalloc.start()
    try:
        evaluate(tmp_path, ALL, mapper=thread_mapper(jobs))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < jobs * 16 * unit_bytes < dump_bytes


INTERRUPTED = """
import os, signal, sys
from h2o_gate_plugin import cli
from h2o_gate_plugin.kv.dump import DumpEntry
read, sent = DumpEntry.words, []
def interrupting(entry, part, strict):
    if entry.seq_start == 105 and not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)
    return read(entry, part, strict)
DumpEntry.words = interrupting
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_an_interrupt_ends_the_command_with_one_line_and_exit_130(dump_dir: Path, tmp_path: Path, jobs: str) -> None:
    out = tmp_path / "out.json"
    argv = [sys.executable, "-c", INTERRUPTED, "offline", "--dump-dir", str(dump_dir), "--jobs", jobs, "--out-json", str(out)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment, preexec_fn=default_sigint, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.count("\n") == 1
    assert "interrupted after" in done.stderr
    assert "of 12 units; nothing was written" in done.stderr
    assert done.stdout == ""
    assert not out.exists()


def default_sigint() -> None:
    """A test run in the background has SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
