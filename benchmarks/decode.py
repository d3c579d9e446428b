"""Decode speed of each preset against the same engine with KV features off, as ratios of interleaved whole processes.

    python benchmarks/decode.py --pairs 6 target_core_gate_v5 target_store_v5

Prints, per preset and prompt length, the median decode speed of both roles, and the ratio over the pairs: geometric mean,
least and most. The peer is the baseline process of the same pair. BLAS threads are pinned to the preset's ``threads``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from h2o_gate_plugin.bench.engine import embedded_engine
from h2o_gate_plugin.bench.measure import measure_case
from h2o_gate_plugin.bench.pack import PackCase
from h2o_gate_plugin.bench.preset import load_preset
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.errors import H2oGateError
from h2o_gate_plugin.gates.decode_drop import estimate_drop
from h2o_gate_plugin.gates.evidence import Row, evidence_of


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["target_core_gate_v5", "target_store_v5"], help="preset names or paths")
    parser.add_argument("--pairs", type=int, default=6, help="interleaved pairs per preset and prompt length")
    args = parser.parse_args()
    print(f"{'preset':<34}{'prompt':>7}{'baseline tok/s':>16}{'candidate tok/s':>17}{'ratio':>8}{'least':>8}{'most':>8}")
    try:
        for name in args.presets:
            report(name, args.pairs)
    except H2oGateError as err:
        print(f"decode: {err}", file=sys.stderr)
        return 2
    return 0


def report(name: str, pairs: int) -> None:
    """Measure one preset and print its lines. Raises H2oGateError when a process fails."""
    case = PackCase(id=f"benchmark/{name}", pack="benchmark", case=name, run=1, preset=load_preset(name), overrides={}, budgets={})
    with tempfile.TemporaryDirectory() as folder:
        measurement = measure_case(embedded_engine(), case, Path(folder), pairs=pairs, timeout_s=900.0, progress=silent)
        evidence = evidence_of(case.id, measurement)
    if evidence.failures:
        raise H2oGateError(evidence.failures[0])
    for drop in estimate_drop(evidence.rows, evidence.baseline_rows).drops:
        baseline = [row for row in evidence.baseline_rows if row.bench.prompt_tokens == drop.prompt_tokens]
        speeds = f"{median_tps(baseline):>16.1f}{median_tps(drop.rows):>17.1f}"
        ratios = "".join(f"{1 - share:>8.3f}" for share in (drop.drop, max(drop.drops), min(drop.drops)))
        print(f"{name:<34}{drop.prompt_tokens:>7}{speeds}{ratios}", flush=True)


def median_tps(rows: tuple[Row, ...] | list[Row]) -> float:
    return statistics.median(row.bench.decode_tps.mean for row in rows if row.bench.decode_tps is not None)


def silent(event: ProgressEvent) -> None:
    """The table is the output."""


if __name__ == "__main__":
    sys.exit(main())
