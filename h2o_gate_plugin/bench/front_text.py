"""The front of a sweep as a table for the terminal, the front first, and as sweep.csv: every planned run."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from h2o_gate_plugin.bench.front import Front, FrontRun, FrontStatus
from h2o_gate_plugin.files import written_whole
from h2o_gate_plugin.kv_options import KvValue

_HEAD = ("run", "swept", "total ratio", "from", "decode tok/s", "quality", "stands")
_RIGHT = ("total ratio", "decode tok/s", "quality")
_ORDER: tuple[FrontStatus, ...] = ("front", "dominated", "not measured", "failed", "not run")
MOST_OFF_FRONT = 20
"""Runs of a standing that the table shows; all of the front."""
_FIGURES = (
    "decode_tps", "total_ratio", "ratio_source", "turn_ratio", "h2o_lossy", "h2o_lossless", "kl_mean", "nll_ratio",
)  # fmt: skip


def front_lines(front: Front) -> tuple[str, ...]:
    """A block for each prompt and gen length; within it the front by falling ratio, then the others and why they are not on it.

    Where more than `MOST_OFF_FRONT` runs stand alike off the front, the rest of them is a line with their number.
    """
    quality = "none told, the front is of ratio and speed alone" if front.quality is None else f"{front.quality.name}, lower is better"
    lines = [f"Pareto front: total ratio, decode tok/s, quality ({quality})"]
    for (prompt, gen), runs in front.groups().items():
        counts = Counter(run.status for run in runs)
        told = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        shown = [run for status in _ORDER for run in _shown(runs, status)]
        rows = [_cells(run, front) for run in shown]
        widths = [max(len(row[index]) for row in (_HEAD, *rows)) for index in range(len(_HEAD))]
        lines += ["", f"prompt {prompt} gen {gen}: {told}", *(_line(row, widths) for row in (_HEAD, *rows))]
        left = counts - Counter(run.status for run in shown)
        lines += [f"  and {left[status]} more {status}: sweep.csv has all runs" for status in _ORDER if left[status]]
    return tuple(line.rstrip() for line in lines)


def _shown(runs: Sequence[FrontRun], status: FrontStatus) -> list[FrontRun]:
    """By falling ratio."""
    alike = sorted((run for run in runs if run.status == status), key=lambda run: -(run.total_ratio or 0.0))
    return alike if status == "front" else alike[:MOST_OFF_FRONT]


def _cells(run: FrontRun, front: Front) -> tuple[str, ...]:
    swept = " ".join(f"{short_key(key)}={shown_value(value)}" for key, value in run.swept.items())
    mark = "* " if run.status == "front" else "  "
    stands = run.status if run.reason is None else f"{run.status}{' ' if run.status == 'dominated' else ': '}{run.reason}"
    return (
        mark + run.run_id,
        swept or "-",
        _figure(run.total_ratio, 3),
        run.ratio_source or "-",
        _figure(run.decode_tps, 2),
        _figure(run.quality(front.quality), 4),
        stands,
    )


def short_key(key: str) -> str:
    return key.removeprefix("kv_").removeprefix("h2o_").removeprefix("target_")


def shown_value(value: KvValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _figure(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(width) if name in _RIGHT else cell.ljust(width) for name, cell, width in zip(_HEAD, cells, widths, strict=True)
    )


def write_front_csv(path: Path, front: Front) -> None:
    """Every planned run in the order of the plan, with ``pareto`` true or false; what was not measured is empty."""
    swept = tuple(dict.fromkeys(key for run in front.runs for key in run.swept))
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("run_id", "prompt_tokens", "gen_tokens", *swept, *_FIGURES, "pareto", "status", "reason"))
        for run in front.runs:
            values = (shown_value(run.swept[key]) for key in swept)
            figures = (getattr(run, name) for name in _FIGURES)
            on_front = "true" if run.status == "front" else "false"
            writer.writerow((run.run_id, run.prompt, run.gen, *values, *figures, on_front, run.status, run.reason))
