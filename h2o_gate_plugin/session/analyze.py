"""``h2o-gate analyze``: gate an h2o_metrics.csv and offline results that are already there; the seed's analyze_h2o_v5.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.gates.baseline import fixed_number
from h2o_gate_plugin.gates.evidence import CaseEvidence, OfflineEvidence, evidence_of
from h2o_gate_plugin.gates.limits import DECODE_AGGREGATES, Limits
from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.gates.verdict import combine, judge_all, overall_pass
from h2o_gate_plugin.options import parse_baseline, parse_limit
from h2o_gate_plugin.outside_file import read_json
from h2o_gate_plugin.report.markdown import inline, table
from h2o_gate_plugin.report.model import CaseReport, Report, failure_line, gate_line, how_judged, quality_lines
from h2o_gate_plugin.report.outcome import EXIT_CODES, outcome
from h2o_gate_plugin.report.summary_json import summary_text

ANALYZE = "analyze"
Judged = Mapping[str, tuple[GateResult, ...]]
"""Case → its gates."""


def mount(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand; it sets ``run``, a function from the parsed arguments to the exit code."""
    parser = subparsers.add_parser(
        "analyze",
        help="judge an h2o_metrics.csv and offline results that are already there",
        description="Judge an h2o_metrics.csv and offline results that are already there; no engine is started.",
        usage="%(prog)s --csv FILE [options]",
        allow_abbrev=False,
    )
    inputs = parser.add_argument_group("what is judged")
    inputs.add_argument("--csv", type=Path, required=True, metavar="FILE", help="h2o_metrics.csv (required)")
    inputs.add_argument("--offline-lossless-json", type=Path, metavar="FILE", help="upper bound, by `h2o-gate offline` (shown, not gated)")
    inputs.add_argument("--offline-lossless-online-json", type=Path, metavar="FILE", help="online_sim, by `h2o-gate offline`")
    limits = parser.add_argument_group("limits (-1 or off switches a gate off)")
    limits.add_argument("--lossy-target", default="3.0", metavar="RATIO", help="of lossy_pass (default %(default)s)")
    limits.add_argument("--lossless-target", default="1.3", metavar="RATIO", help="of lossless_online_pass (default %(default)s)")
    limits.add_argument(
        "--decode-baseline", default="auto", metavar="auto|TPS", help="auto: the CSV's own baseline rows (default); or tok/s"
    )
    limits.add_argument("--decode-aggregate", default="paired", choices=DECODE_AGGREGATES, help="rule of decode_pass (default %(default)s)")
    limits.add_argument("--decode-drop-target", default="0.05", metavar="SHARE", help="of decode_pass (default %(default)s)")
    limits.add_argument("--max-lossless-queue-peak", default="8", metavar="BLOCKS", help="of runtime_queue_peak_pass (default %(default)s)")
    limits.add_argument("--max-lossless-fallback", default="0", metavar="BLOCKS", help="of runtime_fallback_pass (default %(default)s)")
    limits.add_argument("--max-lossless-decomp-us", default="-1", metavar="US", help="of runtime_decomp_pass, us per run (default off)")
    limits.add_argument(
        "--require-runtime-decomp",
        choices=("true", "false"),
        nargs="?",
        const="true",
        default="true",
        help="runtime_decomp_pass asks for decompression > 0 (default %(default)s)",
    )
    outputs = parser.add_argument_group("what is written")
    outputs.add_argument("--out", type=Path, metavar="FILE", help="markdown summary (default: print it)")
    outputs.add_argument("--out-json", type=Path, metavar="FILE", help="summary.json, as a gate run writes it")
    parser.set_defaults(run=run_analyze)


def run_analyze(args: argparse.Namespace) -> int:
    """1 when a gate failed, 10 when there is nothing to judge.

    Raises ConfigError or TableError for options and files that cannot be used.
    """
    limits = _limits(args)
    if not args.csv.is_file():
        raise ConfigError(f"{args.csv}: --csv: expected an h2o_metrics.csv, got no such file; check the path")
    cases = [evidence_of(measurement.label, measurement) for measurement in load_measurements(args.csv)]
    offline = OfflineEvidence(
        _offline_ratio(args.offline_lossless_online_json, "--offline-lossless-online-json"),
        _offline_ratio(args.offline_lossless_json, "--offline-lossless-json"),
        str(args.offline_lossless_online_json or "no file"),
        "no --offline-lossless-online-json" if args.offline_lossless_online_json is None else None,
    )
    judged = {case.case_id: _gates(case, offline, limits, args.require_runtime_decomp == "true") for case in cases}
    overall = combine((overall_pass(gates) for gates in judged.values()), complete=True)
    report = _report(args, cases, judged, overall)
    text = _markdown(args.csv, sum(len(case.rows) for case in cases), offline, judged, overall)
    if args.out_json is not None:
        args.out_json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.out_json, summary_text(report))
    if args.out is None:
        print(text)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.out, text + "\n")
        print("\n".join(quality_lines([gate for gates in judged.values() for gate in gates], overall)))
    return ExitCode.NOTHING_MEASURED if overall is None else EXIT_CODES[outcome(report)]


def _report(args: argparse.Namespace, cases: Sequence[CaseEvidence], judged: Judged, overall: bool | None) -> Report:
    """What a CSV tells of a run: no engine, no host, no folder."""
    now = datetime.now(UTC)
    reports = tuple(
        CaseReport(
            id=case.case_id,
            case=case.case_id,
            run=1,
            pack=ANALYZE,
            runtime_mode=case.runtime_mode,
            overall_pass=overall_pass(judged[case.case_id]),
            gates=judged[case.case_id],
            rows=tuple(row.bench for row in case.rows),
            notes=(),
            failures=(),
            folder=None,
            logs=tuple(dict.fromkeys(row.bench.source for row in case.rows)),
        )
        for case in cases
    )
    folder = args.csv.absolute().parent
    return Report(
        overall_pass=overall,
        incomplete=None,
        pack=ANALYZE,
        engine={"name": "unknown", "argv": None, "sha256": None, "model_config": None},
        host={},
        cases=reports,
        offline={
            "upper_bound": _offline_object(args.offline_lossless_json),
            "online_sim": _offline_object(args.offline_lossless_online_json),
        },
        settings=(),
        out_dir=folder,
        kept_in=args.csv,
        started_utc=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        seconds=0.0,
    )


def _offline_object(path: Path | None) -> Mapping[str, Any] | None:
    return None if path is None else dict(read_json(path))


def _gates(case: CaseEvidence, offline: OfflineEvidence, limits: Limits, require_decomp: bool) -> tuple[GateResult, ...]:
    return tuple(_judged(gate, require_decomp) for gate in judge_all(case, lambda: offline, limits))


def _judged(gate: GateResult, require_decomp: bool) -> GateResult:
    if gate.name == "runtime_decomp_pass" and not require_decomp and gate.limit is None:
        return replace(gate, status="OFF", reason="--require-runtime-decomp=false")
    return gate


def _limits(args: argparse.Namespace) -> Limits:
    flags = {
        "min_lossy": "--lossy-target",
        "min_online_lossless": "--lossless-target",
        "max_decode_drop": "--decode-drop-target",
        "max_queue_peak": "--max-lossless-queue-peak",
        "max_fallback": "--max-lossless-fallback",
        "max_decomp_us": "--max-lossless-decomp-us",
    }
    units = {"max_queue_peak": "blocks", "max_fallback": "blocks", "max_decomp_us": "us", "max_decode_drop": "share"}

    def value(name: str, flag: str) -> float | None:
        text = getattr(args, flag.removeprefix("--").replace("-", "_"))
        parsed: float | None = parse_limit(units.get(name, "ratio"))(text, flag, Path())
        return parsed

    baseline_tps = parse_baseline(args.decode_baseline, "--decode-baseline", Path())
    limits = Limits(**{name: value(name, flag) for name, flag in flags.items()}, origins=flags)  # type: ignore[arg-type]
    fixed = None if baseline_tps is None else fixed_number(baseline_tps)
    return replace(limits, decode_baseline=fixed, decode_aggregate=args.decode_aggregate)


def _offline_ratio(path: Path | None, flag: str) -> float | None:
    if path is None:
        return None
    try:
        ratio = read_json(path)["lossless_ratio"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{path}: {flag}: expected a result of `h2o-gate offline`, got {err!r}; evaluate the dump again") from err
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 2**53:
        raise ConfigError(f"{path}: {flag}: lossless_ratio: expected a number > 0, got {ratio!r:.80}; evaluate the dump again")
    return float(ratio)


def _markdown(csv: Path, n_rows: int, offline: OfflineEvidence, judged: Judged, overall: bool | None) -> str:
    lines = []
    for case_id, gates in judged.items():
        for gate in gates:
            shown = gate_line(gate)
            lines.append((case_id, shown.gate, shown.status, shown.value, shown.limit, shown.margin, shown.unit, how_judged(gate)))
    header = ("case", "gate", "status", "value", "limit", "margin", "unit", "rule and source")
    upper = "-" if offline.upper_bound_ratio is None else f"{offline.upper_bound_ratio:.4f}"
    everything = [gate for gates in judged.values() for gate in gates]
    failures = [f"- {inline(failure_line(case_id, gate, ()))}" for case_id, gates in judged.items() for gate in gates if gate.failed]
    text = [f"# h2o-gate analyze: {inline(csv.name)}", "", f"- rows: {n_rows}", f"- offline_upper_bound: {upper}", ""]
    text += ["## Quality Gate", "", *quality_lines(everything, overall), "", *table(header, lines, right=("value", "limit", "margin"))]
    return "\n".join([*text, *(["", "## Failures", "", *failures] if failures else [])])
