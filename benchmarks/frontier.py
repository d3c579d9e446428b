"""What eviction costs in quality, ratio by ratio: H2O against random eviction and against sink + recent at equal bytes.

    python benchmarks/frontier.py --setting block_tokens=1,score=mean_square --setting block_tokens=32 --jobs 2

Prints a markdown table and draws it as SVG (needs matplotlib, extra ``dev``). A setting names ``kv_h2o_`` keys without their prefix; what
it does not name takes the suite's default. ``ratio`` is measured: bytes of all tokens seen / bytes that the first plan keeps, its
metadata included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.shapes import KvPolicy, Selection
from h2o_gate_plugin.kv_options import KvValue, engine_values, suite_values
from h2o_gate_plugin.runtime.checkpoint import Model
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.model import decode_one_token, prefill
from h2o_gate_plugin.runtime.prompts import Prompt
from h2o_gate_plugin.runtime.quality import MAX_TEXT_TOKENS, Reading, measure_quality
from h2o_gate_plugin.runtime.timed_run import kv_shape

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
RATIO_KEY = "kv_h2o_target_lossy_ratio"
RATIOS = "1.5,2,2.5,3,3.2,4,5,6,8"
SELECTIONS: tuple[Selection, ...] = ("heavy", "random", "window")
NAMES = {"heavy": "H2O", "random": "random", "window": "sink + recent"}
LINES = {"heavy": "-", "random": "--", "window": ":"}
POLICIES = " / ".join(NAMES.values())
FIGURES = {"recall": "heavy recall", "recall_first": "first-time recall", "kl_mean": "plain KL (nats)"}


@dataclass(frozen=True)
class Task:
    """One prompt length under one setting, at all ratios."""

    config: Path
    n_prompt: int
    n_prompts: int
    setting: str
    policies: tuple[KvPolicy, ...]


@dataclass(frozen=True)
class Point:
    n_prompt: int
    setting: str
    selection: Selection
    nominal: str
    ratio: float
    reading: Reading


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--setting", action="append", help="KEY=VALUE,… of kv_h2o_ keys without the prefix; repeat it to compare settings")
    parser.add_argument("--ratios", type=numbers, default=RATIOS, help="nominal kv_h2o_target_lossy_ratio, comma separated")
    parser.add_argument("--prompts", type=lengths, default="512,1024", help="prompt lengths (tokens)")
    parser.add_argument("--n-prompts", type=int, default=4, help="plain prompts, and as many planted ones, per length")
    parser.add_argument("--model-config", type=Path, default=REFERENCE)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "frontier.svg")
    args = parser.parse_args()
    settings, points = args.setting or [""], list[Point]()
    try:
        tasks = [
            Task(args.model_config, length, args.n_prompts, setting, setting_policies(setting, args.ratios))
            for length in args.prompts
            for setting in settings
        ]
        print("\n".join(f"- {label(settings, setting)}: {setting or 'the suite'}" for setting in settings), end="\n\n")
        print(f"| prompt | setting | nominal | ratio | {' | '.join(f'{title}: {POLICIES}' for title in FIGURES.values())} |")
        print(f"|---:|---|---:|---:|{'---:|' * len(FIGURES)}", flush=True)
        with ProcessPoolExecutor(args.jobs) as pool:
            for of_task in pool.map(measure, tasks):
                points += of_task
                print("\n".join(table_lines(of_task, settings)), flush=True)
    except H2oGateError as err:
        print(f"frontier: {err}", file=sys.stderr)
        return 2
    draw(points, args.prompts, settings, args.svg)
    return 0


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(item) for item in text.split(","))


def lengths(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(","))


def measure(task: Task) -> list[Point]:
    """All ratios and selections of one task, from one prefill per prompt. Raises H2oGateError."""
    loaded = load(task.config, "text", 1)
    model, base = loaded.model, task.policies[0]
    policies = {f"{policy.target_lossy_ratio:g} {policy.selection}": policy for policy in task.policies}
    full = KvPolicy.from_values(engine_values({}, "engine defaults"))
    plain = [loaded.prompts.prompt(task.n_prompt, MAX_TEXT_TOKENS + 1, number) for number in range(task.n_prompts)]
    planted = [asked for number in range(task.n_prompts) if (asked := loaded.prompts.planted_prompt(task.n_prompt, number))]
    with blas_threads(1):
        ratios = measured_ratios(model, plain[0], base, policies)
        quality = measure_quality(
            model, plain, planted, {"full": full, **policies}, "full", lambda policy: KvCache(kv_shape(model), policy)
        )
    uncompressed = [Point(task.n_prompt, task.setting, selection, "off", 1.0, quality.readings["full"]) for selection in SELECTIONS]
    return uncompressed + [
        Point(task.n_prompt, task.setting, policy.selection, name.split()[0], ratios[name], quality.readings[name])
        for name, policy in policies.items()
    ]


def setting_policies(setting: str, ratios: Sequence[float]) -> tuple[KvPolicy, ...]:
    """The suite's defaults with the setting's keys, adaptive, nothing lossless, in every selection at each ratio. Raises ConfigError."""
    values: dict[str, KvValue] = {"kv_h2o_target_mode": "adaptive", "kv_lossless_enable": False}
    for item in filter(None, setting.split(",")):
        key, _, value = item.partition("=")
        values[f"kv_h2o_{key}"] = int(value) if value.isdigit() else float(value) if is_number(value) else value
    bases = [KvPolicy.from_values(suite_values({**values, RATIO_KEY: ratio}, f"--setting {setting}")) for ratio in ratios]
    return tuple(replace(base, selection=selection) for base in bases for selection in SELECTIONS)


def is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


def measured_ratios(model: Model, prompt: Prompt, base: KvPolicy, policies: Mapping[str, KvPolicy]) -> dict[str, float]:
    """Bytes of all tokens seen / bytes that the first plan keeps, mean over the layers that evict; 1 where nothing was planned."""
    ratios: dict[str, float] = {}
    with KvCache(kv_shape(model), base) as cache:
        prefill(model, prompt.ids, cache)
        for name, policy in policies.items():
            with cache.fork(policy) as fork:
                decode_one_token(model, prompt.continuation[0], fork)
                ratios[name] = fork.finish().lossy_ratio or 1.0
    return ratios


def table_lines(points: Sequence[Point], settings: Sequence[str]) -> list[str]:
    """One line per ratio of one task; the ratio is H2O's, the controls keep as many tokens in other runs."""
    lines: list[str] = []
    for group in (points[at : at + len(SELECTIONS)] for at in range(0, len(points), len(SELECTIONS))):
        point = group[0]
        cells = [" / ".join(cell(getattr(each.reading, field)) for each in group) for field in FIGURES]
        lines.append(f"| {point.n_prompt} | {label(settings, point.setting)} | {point.nominal} | {point.ratio:.2f} | {' | '.join(cells)} |")
    return lines


def cell(figure: float | None) -> str:
    return "n/a" if figure is None else f"{figure:.3f}"


def label(settings: Sequence[str], setting: str) -> str:
    return chr(ord("A") + settings.index(setting))


def draw(points: Sequence[Point], lengths: Sequence[int], settings: Sequence[str], path: Path) -> None:
    """One column per prompt length, one row per figure; a setting is a colour, a policy a line style."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "frontier"  # the same points give the same file
    figure, axes = pyplot.subplots(len(FIGURES), len(lengths), figsize=(5 * len(lengths), 8), sharex=True, sharey="row", squeeze=False)
    for row, (field, title) in enumerate(FIGURES.items()):
        for column, length in enumerate(lengths):
            axis = axes[row][column]
            for number, setting in enumerate(settings):
                for selection in SELECTIONS:
                    line = [p for p in points if (p.n_prompt, p.setting, p.selection) == (length, setting, selection)]
                    drawn = [(p.ratio, value) for p in line if (value := getattr(p.reading, field)) is not None]
                    name = f"{label(settings, setting)}: {NAMES[selection]}" if len(settings) > 1 else NAMES[selection]
                    axis.plot(*zip(*drawn, strict=True), LINES[selection], color=f"C{number}", marker=".", label=name)
            axis.set(ylabel=title if not column else "", title=f"prompt {length}" if not row else "")
            axis.set(xlabel="KV bytes seen / kept" if row == len(FIGURES) - 1 else "")
            axis.grid(alpha=0.3)
    captions = "\n".join(f"{label(settings, setting)}: {setting or 'the suite'}" for setting in settings)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper center", ncols=len(SELECTIONS), fontsize="small", frameon=False)
    figure.text(0.5, 0.005, captions, ha="center", va="bottom", fontsize="x-small")
    figure.tight_layout(rect=(0, 0.01 + 0.02 * len(settings), 1, 0.97 - 0.025 * len(settings)))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
