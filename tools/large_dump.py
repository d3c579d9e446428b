"""Evaluate a KV dump of many gigabytes with `h2o-gate offline`, and hold the process against a memory bound.

    python tools/large_dump.py --folder /tmp/large --gigabytes 10 --jobs 2

The dump is the reference model's: a few prompts of 2,048 tokens of held-out text, all layers, 8 MiB each, written once. Every further
run id is a folder of hard links to the binaries of one of them beside meta files of its own: it takes no disk, and the evaluator, which
knows nothing of links, reads, compresses, decodes and compares every one. What it counted must be the bytes that the meta files tell.

The bound knows nothing of the dump's size but the number of its entries: `memory_bound_mib`. Ends with 1 where it does not hold. The first
use of numba's kernels in an environment compiles them, which takes another 100 MiB: a real prompt is evaluated before the measured run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from peak_memory import run_measured

from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.dump import DumpWriter, read_dump
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import engine_values
from h2o_gate_plugin.runtime.kv_dump import write_kv_dump
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.timed_run import kv_shape

REFERENCE = Path(__file__).parents[1] / "h2o_gate_plugin" / "models" / "reference"
N_PROMPT, N_DECODE = 1984, 64
PROCESS_MIB = 200
"""The interpreter with numpy, numba, zstd and the compiled kernels."""
GROUPS_PER_JOB = 24
"""A job holds its group's files, words, planes, predicted planes, payloads and what was decoded of them."""
KIB_PER_ENTRY = 4
"""What an entry's meta file and the list that it stands in take."""
UPPER_BOUND_WORDS = ("--entry-mode", "aggregate", "--aggregate-by-stage")
ONLINE_WORDS = ("--entry-mode", "chunked_grouped", "--online-chunk-seq", "192", "--online-framing-bytes", "8")


@dataclass(frozen=True)
class Evaluated:
    """``n_bytes``: of K and V, as the evaluator counted them; ``group_bytes``: of the largest group."""

    n_bytes: int
    entries: int
    groups: int
    group_bytes: int
    seconds: float
    peak_mib: float
    bound_mib: float
    ratio: float


def memory_bound_mib(group_bytes: int, jobs: int, entries: int) -> float:
    """For evaluating groups of at most so many bytes of K and V, ``jobs`` at a time."""
    return PROCESS_MIB + jobs * GROUPS_PER_JOB * group_bytes / 2**20 + KIB_PER_ENTRY * entries / 2**10


def large_dump(folder: Path, n_bytes: int, prompts: int) -> Path:
    """A dump of at least ``n_bytes`` of K and V below ``folder``: ``prompts`` real ones, the other runs linked to them."""
    dump = folder / "dump"
    shutil.rmtree(dump, ignore_errors=True)
    real = folder / f"real_{prompts}x{N_PROMPT + N_DECODE}"
    if not real.is_dir():
        _write_real(real, prompts)
    run_bytes = sum(path.stat().st_size for path in (real / "prompt_0").rglob("*.bin"))
    for number in range(-(-n_bytes // run_bytes)):
        _link_run(real / f"prompt_{number % prompts}", dump / f"run_{number:06}")
    return dump


def _write_real(real: Path, prompts: int) -> None:
    partial = real.with_name(f"{real.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded = load(REFERENCE / "bench_config.json", "text", 1)
    off = KvPolicy.from_values(engine_values({}, "KV features off"))
    with blas_threads(1):
        for number in range(prompts):
            prompt = loaded.prompts.prompt(N_PROMPT, N_DECODE, number)
            with KvCache(kv_shape(loaded.model), off) as cache:
                write_kv_dump(DumpWriter(partial, f"prompt_{number}"), loaded.model, cache, prompt.ids, prompt.continuation)
    partial.rename(real)


def _link_run(real: Path, run: Path) -> None:
    for path in sorted(real.rglob("*")):
        target = run / path.relative_to(real)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".bin":
            os.link(path, target)
        elif path.suffix == ".json":
            meta = json.loads(path.read_text(encoding="utf-8")) | {"run_id": run.name}
            target.write_text(json.dumps(meta), encoding="utf-8")


def evaluate_dump(dump: Path, jobs: int, words: tuple[str, ...] = UPPER_BOUND_WORDS) -> Evaluated:
    """`h2o-gate offline` on every layer, in a process of its own. Raises ValueError where it fails or counts other bytes than are there."""
    result_file = dump.with_name("result.json")
    argv = [sys.executable, "-m", "h2o_gate_plugin.cli", "offline", "--dump-dir", str(dump), "--scope", "layer_range", "--jobs", str(jobs)]
    argv += [*words, "--out-json", str(result_file), "--out-md", str(dump.with_name("result.md")), "--overwrite"]
    done = run_measured(argv)
    if done.exit_code:
        raise ValueError(f"{dump}: h2o-gate offline: expected exit 0, got {done.exit_code}: {done.output[-500:]}")
    result = json.loads(result_file.read_text(encoding="utf-8"))
    group_bytes: dict[tuple[str, int, str], int] = {}
    for entry in read_dump(dump).entries:
        key = (entry.run_id, entry.layer, entry.stage)
        group_bytes[key] = group_bytes.get(key, 0) + entry.k_path.stat().st_size + entry.v_path.stat().st_size
    if (result["raw_bytes"], result["skipped_entries"]) != (sum(group_bytes.values()), 0):
        raise ValueError(f"{dump}: raw_bytes: expected {sum(group_bytes.values())} and nothing skipped, got {result['raw_bytes']}")
    entries, largest = result["selected_entries"], max(group_bytes.values())
    bound_mib = memory_bound_mib(largest, jobs, entries)
    return Evaluated(
        result["raw_bytes"],
        entries,
        result["selected_groups"],
        largest,
        done.seconds,
        done.peak_mib,
        bound_mib,
        result["lossless_ratio"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="where the dump is written, a quarter of a GB on disk")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="bytes of K and V / 1e9 (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="groups at a time (%(default)s)")
    parser.add_argument("--prompts", type=int, default=24, help="real prompts (%(default)s)")
    parser.add_argument("--mode", choices=("upper_bound", "online_sim"), default="upper_bound")
    parser.add_argument("--bound-mib", type=float, metavar="MIB", help="hold the process against this bound instead")
    args = parser.parse_args()
    words = UPPER_BOUND_WORDS if args.mode == "upper_bound" else ONLINE_WORDS
    evaluate_dump(large_dump(args.folder, 1, args.prompts), args.jobs, words)  # kernels on disk
    found = evaluate_dump(large_dump(args.folder, int(args.gigabytes * 1e9), args.prompts), args.jobs, words)
    bound_mib = found.bound_mib if args.bound_mib is None else args.bound_mib
    print("| GB of K and V | entries | groups | largest group | jobs | seconds | MB/s | ratio | peak memory | bound |\n|" + "---:|" * 10)
    print(
        f"| {found.n_bytes / 1e9:.2f} | {found.entries} | {found.groups} | {found.group_bytes / 2**20:.2f} MiB | {args.jobs} "
        f"| {found.seconds:.0f} | {found.n_bytes / 1e6 / found.seconds:.1f} | {found.ratio:.4f} | {found.peak_mib:.0f} MiB "
        f"| {bound_mib:.0f} MiB |"
    )
    return 0 if found.peak_mib <= bound_mib else 1


if __name__ == "__main__":
    sys.exit(main())
