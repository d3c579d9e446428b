"""How the time of a decoded token grows with the prompt, H2O on and off."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_compare import interleave, print_line, print_title, times
from engine_runs import N_DECODE, REFERENCE, Bench, full_kv, h2o_alone, prefilled

from h2o_gate_plugin.runtime.checkpoint import Model, load_model
from h2o_gate_plugin.runtime.measure import blas_threads

PROMPTS = tuple(2**power for power in range(7, 14))
CONTEXT_TOKENS = 16384
N_TIMED = 64
"""The last tokens of a run: eviction has settled, and four plans fall among them."""
HEADER = ("prompt", "off, ms a token", "H2O, ms a token", "off / H2O", "tokens kept")


@dataclass(frozen=True)
class Point:
    n_prompt: int
    off_ms: float
    h2o_ms: float


def growth(bench: Bench, svg: Path) -> None:
    """Decode uses no BLAS, so one number of threads is enough."""
    points = []
    print_title("How a decoded token grows", HEADER)
    model = stretched_model()
    with blas_threads(bench.threads[0]):
        for n_prompt in PROMPTS:
            with prefilled(model, bench.prompt(n_prompt)) as decode_under:
                on, off = decode_under(h2o_alone()), decode_under(full_kv())
                on.timed_from = off.timed_from = N_DECODE - N_TIMED
                compared = interleave(on, off, bench.n_round, N_TIMED)
            point = Point(n_prompt, 1e3 / compared.peer_tps, 1e3 / compared.own_tps)
            kept = on.report.kept_tokens[-1]
            print_line(f"{n_prompt:,}", f"{point.off_ms:.2f}", f"{point.h2o_ms:.2f}", times(point.off_ms / point.h2o_ms), f"{kept:,}")
            points.append(point)
    draw(points, svg)


def stretched_model() -> Model:
    """The reference model's weights with a longer context: its text is meaningless there, its speed is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = json.loads((REFERENCE / "config.json").read_text(encoding="utf-8"))
        config["max_position_embeddings"] = CONTEXT_TOKENS
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "model.safetensors").symlink_to(REFERENCE / "model.safetensors")
        return load_model(folder)


def draw(points: Sequence[Point], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "growth"  # the same points give the same file
    figure, axis = pyplot.subplots(figsize=(6, 4))
    lengths = [point.n_prompt for point in points]
    axis.plot(lengths, [point.off_ms for point in points], "--", marker=".", label="full KV")
    axis.plot(lengths, [point.h2o_ms for point in points], "-", marker=".", label="H2O, target 3.2")
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.set(xlabel="prompt (tokens)", ylabel="ms per decoded token", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
