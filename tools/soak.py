"""Run gate sessions, the embedded engine and the offline evaluator over and over in one process, and see that nothing piles up.

    python tools/soak.py --minutes 30 --csv soak.csv
    python tools/soak.py --judge soak.csv          # the verdict of a CSV that is there

A round, all of it in this one process except the engines that the gate session starts: one session of pytest on the acceptance tests with
the presets of the pack m3 at short lengths, one repeat and one pair, its report and history written; three turns on one KV cache in full
mode and in store mode with an encode worker, and a cache that is closed in the middle of a turn; the dump that the session's engine wrote
through both evaluations, two units at a time. After each round its garbage is collected and everything is counted that could pile up.

The verdict is that of the second half, in which caches are filled: the slope of each count over the rounds by Theil and Sen, which a few
rounds of another kind do not move. It grows when the lower end of the slope's 95 % interval is above what `ALLOWED` says of it; then the
exit code is 1. A session that ends otherwise than judged ends the soak with 1 and its output.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest
import yaml
from scipy import stats

from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy
from h2o_gate_plugin.kv_options import suite_values
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND
from h2o_gate_plugin.offline.workers import thread_mapper
from h2o_gate_plugin.runtime.generate import generate
from h2o_gate_plugin.runtime.measure import LoadedModel, blas_threads, load
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.timed_run import kv_shape

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
ACCEPTANCE = ROOT / "tests" / "acceptance"
JUDGED_EXITS = (0, 1)
"""Of pytest: every gate held, or some did not; how fast a busy machine decodes is nothing that a soak asks."""
CASES = {"joint_full": "target_core_gate_v6", "joint_store": "target_store_v6"}
SHORT = {"prompts": [448], "gens": [32], "repeat": 1}
TURNS, TURN_PROMPT, TURN_DECODE = 3, 96, 48
LEAST_ROUNDS = 8


@dataclass(frozen=True)
class Sample:
    """After a round. ``files`` and ``lock_files``: below the soak's own folder of temporary files; ``locks``: that this process holds."""

    round: int
    elapsed_s: float
    exit_code: int
    rss_kib: int
    open_files: int
    threads: int
    children: int
    files: int
    lock_files: int
    locks: int


ALLOWED = {"rss_kib": 128.0, "open_files": 0.0, "threads": 0.0, "children": 0.0, "files": 0.0, "lock_files": 0.0, "locks": 0.0}
"""Count → growth a round that is none. Memory: what the allocator scatters; the KV of one cache that stays takes several times that."""


@dataclass(frozen=True)
class Trend:
    """``slope`` a round, and the lower end of its 95 % interval."""

    name: str
    first: float
    last: float
    slope: float
    low: float

    @property
    def grows(self) -> bool:
        return self.low > ALLOWED[self.name]

    @property
    def text(self) -> str:
        return f"{self.name} {self.first:g} -> {self.last:g} ({self.slope:+.3g} a round, 95 % sure > {self.low:+.3g})"


def judged(samples: Sequence[Sample]) -> tuple[Trend, ...]:
    """The trends over the second half. Raises ValueError for fewer than `LEAST_ROUNDS`."""
    if len(samples) < LEAST_ROUNDS:
        raise ValueError(f"soak: rounds: expected at least {LEAST_ROUNDS}, got {len(samples)}; let it run for longer")
    half = samples[len(samples) // 2 :]
    return tuple(_trend(name, [float(getattr(sample, name)) for sample in half]) for name in ALLOWED)


def _trend(name: str, values: Sequence[float]) -> Trend:
    slope = stats.theilslopes(values, range(len(values)))
    return Trend(name, values[0], values[-1], float(slope.slope), float(slope.low_slope))


def rounds(folder: Path, until_s: float) -> Iterator[Sample]:
    """Rounds until the clock says so, `LEAST_ROUNDS` at the least."""
    pack, temporary, started = write_pack(folder), folder / "tmp", time.monotonic()
    loaded = load(REFERENCE, "text", 1)
    number = 0
    while number < LEAST_ROUNDS or time.monotonic() - started < until_s:
        number += 1
        out = folder / "out"
        exit_code = gate_session(folder, pack, out)
        engine_turns(loaded)
        evaluator(out / "dump" / "kv")
        shutil.rmtree(out)
        gc.collect()
        yield sample(number, time.monotonic() - started, exit_code, temporary)


def write_pack(folder: Path) -> Path:
    """The presets of m3 with short lengths, and a pack of them."""
    for case, name in CASES.items():
        preset = yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
        (folder / f"{case}.yaml").write_text(yaml.safe_dump(preset | SHORT), encoding="utf-8")
    pack = folder / "soak.yaml"
    pack.write_text(yaml.safe_dump({"cases": [{"case": case, "preset": f"{case}.yaml"} for case in CASES]}), encoding="utf-8")
    return pack


def gate_session(folder: Path, pack: Path, out: Path) -> int:
    """One session in this process. Raises RuntimeError with its output where it did not come to a verdict."""
    words = ("-m", "soak", f"--packs={pack}", f"--h2o-out={out}", f"--h2o-history={folder / 'history'}")
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'basetemp'}", "--decode-pairs=1", "--decode-max-pairs=1")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exit_code = int(pytest.main([str(ACCEPTANCE), *options, *words]))
    if exit_code not in JUDGED_EXITS or not (out / "summary.json").is_file():
        raise RuntimeError(f"soak: gate session: expected exit code 0 or 1 and a summary, got {exit_code}:\n{printed.getvalue()[-4000:]}")
    return exit_code


def engine_turns(loaded: LoadedModel) -> None:
    with blas_threads(1):
        for mode in ("full", "store"):
            values = {"kv_lossless_runtime_mode": mode, "kv_h2o_trigger_min_tokens": 64, "kv_h2o_recent_tokens": 16}
            cold = {"kv_lossless_hot_recent_tokens": 16, "kv_lossless_store_grouped_step_tokens": 32, "kv_lossless_async_threads": 1}
            policy = KvPolicy.from_values(suite_values(values | cold, "soak"))
            with KvCache(kv_shape(loaded.model), policy) as cache:
                for turn in range(TURNS):
                    turn_of(loaded, cache, turn)
                    cache.finish()
            with KvCache(kv_shape(loaded.model), policy) as cache:  # closed with groups in the queue
                turn_of(loaded, cache, 0)


def turn_of(loaded: LoadedModel, cache: KvCache, number: int) -> None:
    prompt = loaded.prompts.prompt(TURN_PROMPT, 1, number)
    generate(loaded.model, prefill(loaded.model, prompt.ids, cache), TURN_DECODE, cache)


def evaluator(dump: Path) -> None:
    for settings in (UPPER_BOUND, ONLINE_SIM):
        evaluate(dump, settings, mapper=thread_mapper(2))


def sample(number: int, elapsed_s: float, exit_code: int, temporary: Path) -> Sample:
    """Linux alone tells all of it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    children = [task.read_text(encoding="utf-8").split() for task in Path("/proc/self/task").glob("*/children")]
    held = [line for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines() if str(os.getpid()) in line.split()]
    files = [path for path in temporary.rglob("*") if path.is_file()]
    return Sample(
        round=number,
        elapsed_s=round(elapsed_s, 1),
        exit_code=exit_code,
        rss_kib=int(status["VmRSS"].split()[0]),
        open_files=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
        children=sum(map(len, children)),
        files=len(files),
        lock_files=sum(path.suffix == ".lock" for path in files),
        locks=len(held),
    )


def soak(minutes: float, out_csv: Path) -> tuple[Sample, ...]:
    """The CSV has a line as soon as a round is done. Temporary files of this process and of its engines go to a folder of its own."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="h2o-gate-soak-") as name, out_csv.open("w", newline="", encoding="utf-8") as file:
        folder = Path(name)
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder)
        writer = csv.DictWriter(file, fieldnames=[field.name for field in fields(Sample)])
        writer.writeheader()
        for each in rounds(folder, 60 * minutes):
            samples.append(each)
            writer.writerow(asdict(each))
            file.flush()
        os.chdir(ROOT)
    return tuple(samples)


def read_samples(path: Path) -> tuple[Sample, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Sample(**{name: float(cell) if name == "elapsed_s" else int(cell) for name, cell in row.items()})
            for row in csv.DictReader(file)
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (%(default)s); eight rounds at the least")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="where the samples go (%(default)s)")
    parser.add_argument("--judge", type=Path, metavar="CSV", help="judge these samples, run nothing")
    args = parser.parse_args()
    samples = soak(args.minutes, args.csv.absolute()) if args.judge is None else read_samples(args.judge)
    trends = judged(samples)
    growing = [trend for trend in trends if trend.grows]
    told = f"soak: {'GROWS' if growing else 'FLAT'} over {len(samples)} rounds in {samples[-1].elapsed_s / 60:.1f} min"
    print(f"{told}; second half: {'; '.join(trend.text for trend in growing or trends)}")
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
