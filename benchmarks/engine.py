"""Speed of the embedded engine, as ratios of interleaved runs in one process; prints markdown.

    python benchmarks/engine.py all
    python benchmarks/engine.py policy joint --repeats 16 --threads 1

Each comparison is a number of rounds of own, peer, peer, own; the result is the median over the rounds. A run is a greedy decode
of 128 tokens after a held-out prompt, or a prefill of it. README.md of this folder says what each section answers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from engine_growth import growth
from engine_policy import floor, joint, policy
from engine_runs import REFERENCE, ROOT, Bench
from engine_startup import startup
from engine_transformers import transformers

from h2o_gate_plugin.bench.host import host_facts, timed_run_lock
from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.runtime.measure import load

REPEATS = {"transformers": 4, "floor": 4, "policy": 10, "joint": 8, "growth": 4, "startup": 7}
"""Rounds per comparison: the closer a goal lies to nothing, the more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    defaults = ", ".join(f"{name} {n_round}" for name, n_round in REPEATS.items())
    parser.add_argument("sections", nargs="+", choices=[*REPEATS, "all"], metavar="section", help=f"{', '.join(REPEATS)} or all")
    parser.add_argument("--repeats", type=positive, help=f"rounds per comparison (default: {defaults})")
    parser.add_argument("--threads", type=positives, default=(1, 2), help="numbers of BLAS threads, comma separated (default: 1,2)")
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "decode-growth.svg", help="picture of growth (default: docs/)")
    args = parser.parse_args()
    names = list(REPEATS) if "all" in args.sections else args.sections
    sections: Mapping[str, Callable[[Bench], None]] = {
        "transformers": transformers,
        "floor": floor,
        "policy": policy,
        "joint": joint,
        "growth": lambda bench: growth(bench, args.svg),
        "startup": startup,
    }
    try:
        bench = Bench(load(REFERENCE / "bench_config.json", "text", 1), 1, args.threads)
        print_host()
        for name in names:
            n_round = args.repeats or REPEATS[name]
            with timed_run_lock():
                started = perf_counter()
                sections[name](replace(bench, n_round=n_round))
            print(f"\n`{name}`: {n_round} rounds, {perf_counter() - started:.0f} s, {load_average()} at the end.", flush=True)
    except H2oGateError as err:
        print(f"engine: {err}", file=sys.stderr)
        return 2
    return 0


def positive(word: str) -> int:
    count = int(word)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return count


def positives(words: str) -> tuple[int, ...]:
    return tuple(positive(word) for word in words.split(","))


def print_host() -> None:
    facts = host_facts()
    versions = ", ".join(f"{name} {facts['libraries'][name]}" for name in ("numpy", "numba"))
    machine = f"{facts['cpu']}, {facts['usable_cores']} cores, Python {facts['python']}"
    print(f"{machine}, {versions}, {load_average()} at the start.", flush=True)


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
