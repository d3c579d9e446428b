"""Whole processes from start to end: how long ``llm_bench`` takes to its first token."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from engine_compare import Goal, median_interval, print_line, print_title, seconds
from engine_runs import REFERENCE, Bench

from h2o_gate_plugin.errors import EngineError

LLM_BENCH = (
    *(sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench", "-m", str(REFERENCE / "bench_config.json")),
    *("-t", "1", "-p", "16", "-n", "1", "-rep", "1", "-kv", "true"),
)
IMPORTS = (sys.executable, "-c", "import numpy, numba")
WARM_GOAL = Goal(1.5, at_least=False)
N_COLD = 2
HEADER = ("process", "runs", "median", "90 % interval", "goal")


def startup(bench: Bench) -> None:
    """With the kernels' machine code on disk, without it, and the libraries' import alone. Raises EngineError when a process fails."""
    print_title("Start-up", HEADER)
    with tempfile.TemporaryDirectory() as folder:
        cold_s = [process_s(LLM_BENCH, Path(folder) / f"kernels-{number}") for number in range(N_COLD)]
        warm_s, imports_s = [], []
        for _ in range(bench.n_round):
            imports_s.append(process_s(IMPORTS, Path(folder)))
            warm_s.append(process_s(LLM_BENCH, Path(folder) / "kernels-0"))
    print_times("import numpy, numba", imports_s, None)
    print_times("llm_bench, warm kernel cache", warm_s, WARM_GOAL)
    print_times("llm_bench, cold kernel cache", cold_s, None)


def process_s(argv: Sequence[str], kernel_cache: Path) -> float:
    """Seconds from start to end. Raises EngineError with the last line of stderr when it fails."""
    kernel_cache.mkdir(exist_ok=True)
    environment: Mapping[str, str] = {**os.environ, "NUMBA_CACHE_DIR": str(kernel_cache), "H2O_BENCH_QUALITY": "off"}
    started = perf_counter()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    process_s = perf_counter() - started
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing on stderr"]
        raise EngineError(f"{' '.join(argv)}: process: expected exit code 0, got {done.returncode} after {process_s:.1f} s: {said[-1]}")
    return process_s


def print_times(name: str, runs_s: Sequence[float], goal: Goal | None) -> None:
    median, spread = statistics.median(runs_s), median_interval(runs_s)
    verdict = "none" if goal is None else goal.cell(median, seconds, spread)
    print_line(name, len(runs_s), f"**{seconds(median)}**", f"{seconds(spread[0])} … {seconds(spread[1])}", verdict)
