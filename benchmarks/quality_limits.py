"""Where the limits of quality_pass come from: its criteria without a fault, under the controls, and under the faults that they must refuse.

    python benchmarks/quality_limits.py

Prints a markdown table. Each line is one llm_bench process of its own with the preset of the packs (target_core_gate_v6); the faults are
those of tests/faults.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from h2o_gate_plugin.bench.config import write_config
from h2o_gate_plugin.bench.engine import REFERENCE_BENCH_CONFIG
from h2o_gate_plugin.bench.preset import expand, load_preset

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.faulty_llm_bench import NO_FAULT  # noqa: E402
from faults.gate_runs import write_launcher  # noqa: E402

PRESET = "target_core_gate_v6"
PROMPTS = (512, 1024)
FAULTS = (
    "values_scrambled",
    "positions_off_by_one",
    "positions_restart_at_kept",
    "kept_set_frozen",
    "plan_of_first_layer_everywhere",
    "plan_of_next_layer",
    "scores_are_noise",
    "scores_of_wrong_dtype",
    "ties_evict_the_newer",
)


OTHER_PROMPTS = (448, 480, 544, 576, 640, 704, 768, 896)
"""Lengths whose texts are others: what honest prompts scatter by."""


def measured(fault: str, folder: Path, prompt_tokens: tuple[int, ...] = PROMPTS) -> list[Mapping[str, float]]:
    """One object per prompt length. Raises CalledProcessError when the engine fails."""
    config = folder / "config.json"
    write_config(REFERENCE_BENCH_CONFIG, expand(load_preset(PRESET), {})[0].values, config)
    results = folder / f"{fault}.json"
    prompts = ",".join(map(str, prompt_tokens))
    argv = [str(write_launcher(folder, fault)), "-m", str(config), "-t", "1", "-kv", "true", "-p", prompts, "-n", "128", "-rep", "1"]
    subprocess.run([*argv, "-fp", str(folder / f"{fault}.log"), "-j", str(results)], check=True, stdout=subprocess.DEVNULL)
    rows: list[Mapping[str, float]] = json.loads(results.read_text(encoding="utf-8"))["results"]
    return rows


FIGURES: tuple[tuple[str, Callable[[Mapping[str, float]], float]], ...] = (
    (".3f", lambda row: row["kl_mean"]),
    (".0e", lambda row: row["kl_masked"]),
    (".2f", lambda row: row["top1_agree"]),
    (".3f", lambda row: row["nll_kv"] / row["nll_full"]),
    (".2f", lambda row: row["recall_kv"] / row["recall_full"]),
    ("+.2f", lambda row: row["recall_kv"] - max(row["recall_random"], row["recall_window"])),
)
"""KL, masked KL, top-1, nll ratio, recall share and lead: how each is written, and what it is."""


def line(name: str, rows: list[Mapping[str, float]]) -> str:
    """Each figure for all prompt lengths."""
    cells = (" / ".join(f"{value(row):{form}}" for row in rows) for form, value in FIGURES)
    return f"| {name} | {' | '.join(cells)} |"


def spread(name: str, rows: list[Mapping[str, float]]) -> str:
    """Each figure's least and most over all prompt lengths."""
    values = ((form, [value(row) for row in rows]) for form, value in FIGURES)
    return f"| {name} | {' | '.join(f'{min(found):{form}} to {max(found):{form}}' for form, found in values)} |"


def controls(rows: list[Mapping[str, float]]) -> list[str]:
    """KL and recall of the controls, as the engine prints them beside the configuration."""
    found = []
    for role in ("random", "window"):
        kl, recall = (" / ".join(f"{row[f'{column}_{role}']:.3f}" for row in rows) for column in ("kl_mean", "recall"))
        found.append(f"| control: {role} | {kl} | | | | {recall} | |")
    return found


def main() -> None:
    print(f"Preset {PRESET}, prompts {' / '.join(map(str, PROMPTS))}, 128 decoded tokens.\n")
    print("| | KL nats | masked KL nats | top-1 | nll ratio | recall share | recall lead |\n|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        sound = measured(NO_FAULT, Path(name))
        print("\n".join((line("no fault", sound), *controls(sound))), flush=True)
        others = f"{len(OTHER_PROMPTS)} other lengths, {min(OTHER_PROMPTS)} to {max(OTHER_PROMPTS)}"
        print(spread(f"no fault, {others}", measured(NO_FAULT, Path(name), OTHER_PROMPTS)), flush=True)
        for fault in FAULTS:
            print(line(fault, measured(fault, Path(name))), flush=True)


if __name__ == "__main__":
    main()
