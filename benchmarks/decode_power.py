"""How surely the decode gate tells drops apart, by seeded simulation of whole runs; the curve and the table of docs/gates.md.

    python benchmarks/decode_power.py --picture docs/decode-power.svg

Per simulated host (tests/unit/gates/simulated_host.py) and true drop: the shares of PASS, FAIL and INCONCLUSIVE at the limit of 5 %, and
the mean number of pairs. No clock is involved; the same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2o_gate_plugin.gates.looks import looks
from h2o_gate_plugin.gates.sequential import verdicts
from h2o_gate_plugin.options import DEFAULT_MAX_PAIRS, DEFAULT_PAIRS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "gates"))

from simulated_host import HOSTS, Host, log_ratios

LIMIT, SEED = 0.05, 1
TABLE_DROPS = (-0.05, 0.0, 0.05, 0.10)
CURVE_DROPS = tuple(round(-0.10 + 0.01 * step, 2) for step in range(27))
CURVES = ("independent, 5 % a pair", "independent, 5 % a process", "outliers, 5 % a pair")


@dataclass(frozen=True)
class Rates:
    """Shares of the simulated runs, and the mean number of pairs of a run."""

    passed: float
    failed: float
    inconclusive: float
    pairs: float


def rates(host: Host, true_drop: float, n_runs: int) -> Rates:
    plan = looks(DEFAULT_PAIRS, DEFAULT_MAX_PAIRS)
    verdict, look = verdicts(log_ratios(host, true_drop, n_runs, DEFAULT_MAX_PAIRS, SEED), LIMIT, plan)
    pairs = np.array([at.pairs for at in plan])[look - 1]
    return Rates(*(float((verdict == sign).mean()) for sign in (1, -1, 0)), float(pairs.mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs per host and drop (default %(default)s)")
    parser.add_argument("--picture", type=Path, help="write the curves here (svg)")
    args = parser.parse_args()
    print("| host | " + " | ".join(f"drop {drop:+.0%}" for drop in TABLE_DROPS) + " |")
    print("|---|" + "---|" * len(TABLE_DROPS))
    for name, host in HOSTS.items():
        print(f"| {name} | " + " | ".join(cell(rates(host, drop, args.runs)) for drop in TABLE_DROPS) + " |", flush=True)
    if args.picture is not None:
        draw(args.picture, args.runs)
    return 0


def cell(found: Rates) -> str:
    """``99.1 / 0.0 / 0.9, 12.7``: PASS / FAIL / INCONCLUSIVE in percent, mean pairs."""
    return f"{found.passed * 100:.1f} / {found.failed * 100:.1f} / {found.inconclusive * 100:.1f}, {found.pairs:.1f}"


def draw(path: Path, n_runs: int) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "decode-power"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(CURVES), figsize=(11, 3.8), sharey=True, layout="constrained")
    for panel, name in zip(panels, CURVES, strict=True):
        found = [rates(HOSTS[name], drop, n_runs) for drop in CURVE_DROPS]
        percent = [drop * 100 for drop in CURVE_DROPS]
        for label, style, shares in (
            ("PASS", "-", [rate.passed for rate in found]),
            ("FAIL", "--", [rate.failed for rate in found]),
            ("INCONCLUSIVE", ":", [rate.inconclusive for rate in found]),
        ):
            panel.plot(percent, [share * 100 for share in shares], style, label=label)
        pairs = panel.twinx()
        pairs.plot(percent, [rate.pairs for rate in found], color="0.6", linewidth=1)
        pairs.set_ylim(0, DEFAULT_MAX_PAIRS + 1)
        if name == CURVES[-1]:
            pairs.set_ylabel("mean pairs (grey)")
        else:
            pairs.set_yticklabels([])
        panel.axvline(LIMIT * 100, color="0.8", linewidth=0.8)
        panel.set_title(name)
        panel.set_xlabel("true drop (%), limit 5")
    panels[0].set_ylabel("runs (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
