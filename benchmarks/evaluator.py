"""How fast the offline evaluator is beside a straightforward program with the same totals, on one core and on more.

    python benchmarks/evaluator.py --folder /tmp/h2o-evaluator --repeats 5

Writes a dump of the reference model (12 prompts of 2,048 tokens of held-out text, all layers, 100 MB) into the folder unless it is there.
A round runs the peer, and the evaluator with each number of jobs, in turn; a ratio is of one round, the median of all is printed.
Processor time says what a side costs where neighbours keep the cores busy; threads do not shorten it.
Every run's totals must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time

from evaluator_dump import dump_bytes, reference_dump
from evaluator_peer import Peer

from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.planes import U8
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames
from h2o_gate_plugin.offline.coding import TensorByTensor
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND, EvaluatorSettings
from h2o_gate_plugin.offline.workers import thread_mapper, usable_cores
from h2o_gate_plugin.runtime.measure import blas_threads

Totals = tuple[int, int, int, int]
SETTINGS = {
    "upper bound": replace(UPPER_BOUND, scope="layer_range", entropy_bound=False),
    "online_sim": replace(ONLINE_SIM, scope="layer_range", entropy_bound=False),
}


def own_totals(dump: Path, settings: EvaluatorSettings, jobs: int) -> Totals:
    result = evaluate(dump, settings, mapper=thread_mapper(jobs))
    return result.k.raw_bytes, result.k.compressed_bytes, result.v.raw_bytes, result.v.compressed_bytes


class TimedZstd(ZstdFrames):
    """Adds up the seconds inside zstd; for one thread."""

    seconds = 0.0

    def compress(self, payload: U8 | memoryview) -> bytes:
        started = perf_counter()
        frame = super().compress(payload)
        self.seconds += perf_counter() - started
        return frame

    def decompress(self, frame: bytes | memoryview, n_bytes: int, place: str) -> bytes:
        started = perf_counter()
        decoded = super().decompress(frame, n_bytes, place)
        self.seconds += perf_counter() - started
        return decoded


def zstd_share(dump: Path, settings: EvaluatorSettings) -> float:
    """Of the evaluator's time on one core."""
    timed = TimedZstd(settings.zstd_level)
    codec = GearV22(block_tokens=settings.adaptive_block_seq, level=settings.zstd_level)
    codec._zstd = timed
    started = perf_counter()
    evaluate(dump, settings, codec=TensorByTensor(codec))
    return timed.seconds / (perf_counter() - started)


@dataclass
class Seconds:
    """One side, round by round: by the clock, and of all threads' processor time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def compare(dump: Path, settings: EvaluatorSettings, jobs: tuple[int, ...], n_round: int) -> dict[str, Seconds]:
    """Raises ValueError when a side's totals differ."""
    sides: dict[str, Callable[[], Totals]] = {
        "peer": lambda: Peer(settings, proof=True).totals(dump),
        "peer without proof": lambda: Peer(settings, proof=False).totals(dump),
        **{f"--jobs {n}": lambda n=n: own_totals(dump, settings, n) for n in jobs},
    }
    expected = sides["peer"]()
    seconds = {name: Seconds() for name in sides}
    for number in range(n_round + 1):
        for name in reversed(sides) if number % 2 else sides:
            wall, cpu = perf_counter(), process_time()
            totals = sides[name]()
            wall, cpu = perf_counter() - wall, process_time() - cpu
            if totals != expected:
                raise ValueError(f"{name}: totals: expected the peer's {expected}, got {totals}")
            if number:  # the first round warms up
                seconds[name].wall.append(wall)
                seconds[name].cpu.append(cpu)
    return seconds


def peak_mib(dump: Path, jobs: int) -> float:
    """Of a whole `h2o-gate offline` process."""
    argv = [sys.executable, "-m", "h2o_gate_plugin.cli", "offline", "--dump-dir", str(dump), "--scope", "layer_range", "--quiet"]
    process = subprocess.Popen([*argv, "--entry-mode", "aggregate", "--jobs", str(jobs)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{dump}: h2o-gate offline: expected exit 0, got {process.returncode}")
    return usage.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where dumps are kept (default: a temporary folder)")
    parser.add_argument("--runs", type=int, default=12, help="prompts in the dump, 8 MiB each (12)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    args = parser.parse_args()
    n_core = usable_cores()
    jobs = (1, n_core) if n_core > 1 else (1,)
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as name, blas_threads(1):
        folder = Path(name)
        try:
            dump, small = reference_dump(folder, args.runs), reference_dump(folder, max(1, args.runs // 4))
        except H2oGateError as err:
            parser.error(str(err))
        n_bytes = dump_bytes(dump)
        print(f"\n{n_bytes / 1e6:.1f} MB of K and V, {n_core} usable cores, medians of {args.repeats} rounds (least to most)\n")
        print("| evaluation | side | MB/s | x peer | x peer without proof | x peer, processor time |\n|---|---|---:|---:|---:|---:|")
        for title, settings in SETTINGS.items():
            seconds = compare(dump, settings, jobs, args.repeats)
            peer, unproven = seconds["peer"], seconds["peer without proof"]
            for side, own in seconds.items():
                cells = (ratios(peer.wall, own.wall), ratios(unproven.wall, own.wall), ratios(peer.cpu, own.cpu))
                print(f"| {title} | {side} | {n_bytes / 1e6 / statistics.median(own.wall):.1f} | {' | '.join(cells)} |", flush=True)
        shares = ", ".join(f"{title} {zstd_share(dump, settings):.0%}" for title, settings in SETTINGS.items())
        print(f"\nTime inside zstd, one job: {shares}.\n")
        print("| dump | jobs | peak memory of the process |\n|---|---:|---:|")
        for path in (small, dump):
            for n in jobs:
                print(f"| {dump_bytes(path) / 1e6:.1f} MB | {n} | {peak_mib(path, n):.1f} MiB |")
    return 0


def ratios(peer_s: list[float], own_s: list[float]) -> str:
    """Peer's time / own time, per round."""
    values = [peer / own for peer, own in zip(peer_s, own_s, strict=True)]
    return f"**{statistics.median(values):.2f}x** ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
