"""Thousands of what is usually a few: runs of a sweep, rows of a log, runs of a history, cases of a pack. Engines are scripted ones.

    python tools/many.py sweep --folder /tmp/many --count 2000      # ten minutes: a process for each run
    python tools/many.py log --folder /tmp/many --count 2000
    python tools/many.py history --folder /tmp/many --count 2000
    python tools/many.py pack --folder /tmp/many --count 200

Prints seconds and peak memory of each command of `h2o-gate`, and the bytes of what it wrote, which stays in the folder to be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from peak_memory import run_measured

from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.history.database import HISTORY_FILE, add_run
from h2o_gate_plugin.history.run import KeptGate, KeptRow, KeptRun

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "tests" / "engines" / "scripted_llm_bench.py"
KV = {"kv_h2o_target_lossy_ratio": 3.2, "kv_h2o_trigger_min_tokens": 32, "kv_h2o_sink_tokens": 2, "kv_h2o_recent_tokens": 8}
CASES = ("m3/joint_full-1", "m3/joint_full-2", "m3/joint_full-3", "m3/joint_store-1")


@dataclass(frozen=True)
class Command:
    """``output``: what it printed."""

    name: str
    exit_code: int
    seconds: float
    peak_mib: float
    output: str
    fine: tuple[int, ...] = (0,)


def command(folder: Path, name: str, *words: str, fine: tuple[int, ...] = (0,)) -> Command:
    """Run in ``folder``, where its temporary files go too. ``fine``: exit codes."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("H2O_", "PYTEST_"))} | {"TMPDIR": str(folder)}
    done = run_measured([sys.executable, "-m", *words], folder, env)
    (folder / "output.txt").write_text(done.output, encoding="utf-8")
    return Command(name, done.exit_code, done.seconds, done.peak_mib, done.output, fine)


def scripted_engine(folder: Path, **scenario: Any) -> list[str]:
    """The options that name it, before or after which `h2o-gate` and pytest differ."""
    (folder / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"base_dir": f"{folder}/", "scenario": "scenario.json"}), encoding="utf-8")
    return ["--llm-bench", str(ENGINE)]


def sweep(folder: Path, count: int) -> Iterator[Command]:
    """Two prompt lengths; ratio against speed and divergence as they go in life, each run by the luck of its number."""
    luck = random.Random(7)
    rules = []
    for call in range(1, -(-count // 2) + 1):
        ratio = luck.uniform(2, 5)
        cells = {
            "h2o_lossy": f"{ratio:.3f} ± 0.000",
            "kl_mean": f"{0.004 * ratio**1.5 * luck.uniform(0.7, 1.6):.4f}",
            "kv_range_decode_mb": f"{3 / ratio:.4f} ± 0.0000",
            "kv_range_resident_mb": f"{3 / ratio / 1.2:.4f} ± 0.0000",
        }
        rules.append({"when": {"call": call}, "decode": f"{260 - 25 * ratio + luck.gauss(0, 8):.2f} ± 1.00", "cells": cells})
    engine = scripted_engine(folder, default={"evidence": True}, rules=rules)
    values = [round(2 + 0.01 * number, 2) for number in range(-(-count // 2))]
    preset = {"prompts": [64, 128], "gens": [8], "repeat": 1, "kv": {"kv_h2o_target_lossy_ratio": values}}
    (folder / "large.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    words = ("h2o_gate_plugin.cli", "sweep", "--preset", "large.yaml", *engine, "--base-config", "config.json", "--out-dir", "sweep")
    yield command(folder, "sweep", *words)
    yield command(folder, "sweep that is done already", *words)


def log(folder: Path, count: int) -> Iterator[Command]:
    """One table of so many rows."""
    engine = scripted_engine(folder, default={"evidence": True})
    argv = [
        sys.executable,
        engine[1],
        "-m",
        str(folder / "config.json"),
        "-kv",
        "true",
        "-p",
        "64",
        "-n",
        "8",
        "-fp",
        str(folder / "one.log"),
    ]
    (folder / "one.log").unlink(missing_ok=True)
    subprocess.run(argv, check=True)
    header, ruler, row = (folder / "one.log").read_text(encoding="utf-8").splitlines()
    (folder / "many.log").write_text("\n".join([header, ruler, *[row] * count]) + "\n", encoding="utf-8")
    yield command(folder, "parse", "h2o_gate_plugin.cli", "parse", "--log-files", "many.log", "--out-csv", "many.csv")
    words = ("h2o_gate_plugin.cli", "analyze", "--csv", "many.csv", "--out", "many.md")
    yield command(folder, "analyze", *words, fine=(1,))  # without an offline result the verdict is false


def history(folder: Path, count: int) -> Iterator[Command]:
    """Runs four hours apart, each with four cases, all gates, and 32 rows of 45 columns."""
    (folder / HISTORY_FILE).unlink(missing_ok=True)
    luck = random.Random(3)
    for number in range(count):
        add_run(folder / HISTORY_FILE, kept_run(number, luck))
    place = ("--h2o-history", str(folder))
    yield command(folder, "history decode_pass", "h2o_gate_plugin.cli", "history", "decode_pass", *place)
    yield command(folder, "history decode_tps", "h2o_gate_plugin.cli", "history", "decode_tps", *place)
    words = ("history", "decode_pass", "--last", str(count), "--svg", "trend.svg", "--csv", "trend.csv")
    yield command(folder, "history decode_pass, all runs, with a picture", "h2o_gate_plugin.cli", *words, *place)
    yield command(folder, "compare latest~1 latest", "h2o_gate_plugin.cli", "compare", "latest~1", "latest", *place)


def kept_run(number: int, luck: random.Random) -> KeptRun:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=4 * number)
    gates = tuple(
        KeptGate(case, str(gate), None, "PASS", luck.gauss(0.02, 0.01), 0.1, "share", "<=", "default")
        for case in CASES
        for gate in GATE_NAMES
    )
    columns = [f"column_{index}" for index in range(45)]
    rows = tuple(
        KeptRow("plan", role, f"run_0001_p{prompt}_g128", pair, prompt, 128, "CPU", "1", {"decode_tps": luck.gauss(200, 5), **more})
        for role, names in (("candidate", columns), ("baseline", ()))
        for prompt in (512, 1024)
        for pair in range(1, 9)
        for more in ({name: luck.random() for name in names},)
    )
    return KeptRun(
        id=f"{at:%Y%m%dT%H%M%SZ}-m3", started_utc=f"{at:%Y-%m-%dT%H:%M:%SZ}", seconds=60.0, folder=Path("/runs") / str(number), pack="m3",
        overall_pass=True, incomplete=None, engine="embedded", origin=Origin("a" * 12, "e" * 64, "c" * 64), cpu="a CPU",
        revision=Revision(f"{number:040}", False), version="0.1.0", settings={f"--option-{index}": ("1", "default") for index in range(45)},
        plans=dict.fromkeys(CASES, "plan"), gates=gates, rows=rows,
    )  # fmt: skip


def pack(folder: Path, count: int) -> Iterator[Command]:
    """One session of so many cases, each with a trace of its own, and its reports below ``out``."""
    engine = scripted_engine(folder, default={"evidence": True, "trace": "whole"})
    for name in ("out", "again"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "one.yaml").write_text(yaml.safe_dump({"prompts": [64], "gens": [8], "repeat": 1, "kv": KV}), encoding="utf-8")
    cases = [{"case": f"case_{n:04}", "preset": "one.yaml", "set": {"kv_h2o_target_lossy_ratio": 3.2 + n / 1000}} for n in range(count)]
    (folder / "many.yaml").write_text(yaml.safe_dump({"cases": cases}), encoding="utf-8")
    words = ["pytest", str(ROOT / "tests" / "acceptance"), "-m", "many", "--packs=many.yaml", "-q", "-p", "no:cacheprovider"]
    words += ["--decode-aggregate=avg", "--h2o-history=history"]
    measured = [*engine, "--model-config", "config.json", "--decode-pairs=1", "--decode-max-pairs=1", "--h2o-out=out"]
    yield command(folder, "pytest -m many", *words, *measured)
    yield command(folder, "pytest -m many --h2o-from", *words, "--h2o-from=out", "--h2o-out=again")


WRITTEN = {
    sweep: ("sweep/manifest.json", "sweep/sweep.csv", "sweep/pareto.svg"),
    log: ("many.log", "many.csv", "many.md"),
    history: (HISTORY_FILE, "trend.svg", "trend.csv"),
    pack: ("out/report.html", "out/tests.html", "out/summary.json", "out/summary.md", "out/h2o_metrics.csv"),
}


def main() -> int:
    kinds = {kind.__name__: kind for kind in WRITTEN}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--folder", type=Path, required=True, help="where everything is written")
    parser.add_argument("--count", type=int, default=2000, help="%(default)s")
    args = parser.parse_args()
    folder: Path = args.folder.resolve() / args.kind
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    print(
        f"{args.kind}, {args.count:,} of them\n\n| command | exit code | seconds | peak memory | lines printed |\n|---|---:|---:|---:|---:|"
    )
    for done in kinds[args.kind](folder, args.count):
        cells = (done.name, str(done.exit_code), f"{done.seconds:.1f}", f"{done.peak_mib:.0f} MiB", f"{done.output.count(chr(10)):,}")
        print(f"| {' | '.join(cells)} |", flush=True)
        failed = failed or done.exit_code not in done.fine
    print("\n| written | bytes |\n|---|---:|")
    for name in WRITTEN[kinds[args.kind]]:
        path = folder / name
        print(f"| {name} | {path.stat().st_size if path.is_file() else 0:,} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
