"""The subcommands `history` and `compare`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from h2o_gate_plugin.declared import whole_number
from h2o_gate_plugin.errors import ConfigError, printable
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.history.comparison import compare
from h2o_gate_plugin.history.comparison_text import comparison_lines, comparison_markdown, comparison_object
from h2o_gate_plugin.history.database import DEFAULT_HISTORY, HISTORY_FILE, open_history
from h2o_gate_plugin.history.source import find_run
from h2o_gate_plugin.history.trend import (
    Series,
    chosen_runs,
    column_series,
    columns_of,
    gate_name,
    gate_series,
    is_gate,
    latest,
    refuse_unknown,
)
from h2o_gate_plugin.history.trend_plot import write_trend_picture
from h2o_gate_plugin.history.trend_text import trend_lines, write_trend_csv
from h2o_gate_plugin.plots import refuse_pictures

DEFAULT_LAST = 20
ENVIRONMENT = "H2O_HISTORY"
WORSE_EXIT = 1
STDOUT = Path("-")
COMPARE = (
    "Show two gate runs side by side. Exit code: 0 when no gate's status is worse in B, 1 when one is, 4 when the runs cannot be compared."
)


def mount(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands; each sets ``run``, a function from the parsed arguments to the exit code."""
    history = subparsers.add_parser(
        "history",
        help="show a gate or a column over the runs that were kept",
        description="Show a gate or a column of h2o_metrics.csv over the runs that were kept, as a table, a CSV or a picture.",
        usage="%(prog)s METRIC [options]",
        allow_abbrev=False,
    )
    history.add_argument("metric", metavar="METRIC", help="a gate (decode_pass, or decode) or a column of h2o_metrics.csv (decode_tps)")
    history.add_argument("--pack", metavar="PACK", help="runs of this pack only")
    history.add_argument("--case", metavar="CASE", help="this case only, or those that match a pattern: m3/*")
    history.add_argument("--last", default=str(DEFAULT_LAST), metavar="N", help="latest runs to show of each case (default %(default)s)")
    history.add_argument("--csv", type=Path, metavar="FILE", help="write the table here too")
    history.add_argument("--svg", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    history.add_argument("--png", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    _add_history(history)
    history.set_defaults(run=run_history)

    comparison = subparsers.add_parser("compare", help="show two gate runs side by side", description=COMPARE, allow_abbrev=False)
    for letter in ("A", "B"):
        comparison.add_argument(letter.lower(), metavar=letter, help="folder of a run, id of a kept run, latest or latest~N")
    comparison.add_argument("--json", type=Path, metavar="FILE", help="write it as JSON, - to standard output instead of the text")
    comparison.add_argument("--md", type=Path, metavar="FILE", help="write it as markdown, - to standard output instead of the text")
    _add_history(comparison)
    comparison.set_defaults(run=run_compare)


def _add_history(parser: argparse.ArgumentParser) -> None:
    """The environment variable is that of pytest's option of the same name."""
    parser.add_argument(
        "--h2o-history",
        type=Path,
        default=Path(os.environ.get(ENVIRONMENT) or DEFAULT_HISTORY),
        metavar="DIR",
        help=f"folder of {HISTORY_FILE} (default {DEFAULT_HISTORY}; environment {ENVIRONMENT})",
    )


def run_history(args: argparse.Namespace) -> int:
    """Print a table for each case. Raises ConfigError for a history, metric, pack or case that is not there."""
    last = whole_number(args.last)
    if not last:
        raise ConfigError(f"command line: --last: expected a whole number >= 1, got {args.last!r:.80}; correct it")
    refuse_pictures({"--svg": args.svg, "--png": args.png})
    pictures = [path for path in (args.svg, args.png) if path is not None]
    file = args.h2o_history / HISTORY_FILE
    series = tuple(latest(each, last) for each in _series(file, args.metric, args.pack, args.case))
    if not series:
        raise ConfigError(f"{file}: {args.metric}: expected a run that measured it, got none; run a pack that judges it")
    print("\n\n".join("\n".join(map(printable, trend_lines(each))) for each in series))
    if args.csv is not None:
        write_trend_csv(args.csv, series)
        print(f"\ntable: {args.csv}")
    if pictures:
        shown = {point.run.id for each in series for point in each.points}
        title = f"{gate_name(args.metric) or args.metric} over {len(shown)} run{'' if len(shown) == 1 else 's'}"
        write_trend_picture(pictures, title, series)
        print("\n".join(f"picture: {path}" for path in pictures))
    return 0


def _series(file: Path, metric: str, pack: str | None, case: str | None) -> tuple[Series, ...]:
    with open_history(file) as history:
        runs = chosen_runs(history.runs(), pack)
        if is_gate(metric):
            return gate_series(metric, runs, case)
        rows = history.rows("candidate")
        refuse_unknown(metric, columns_of(rows))
        return column_series(metric, runs, rows, case)


def run_compare(args: argparse.Namespace) -> int:
    """1 when the status of a gate is worse in B. Raises ConfigError for runs that are not there or have no case in common."""
    if args.json == STDOUT and args.md == STDOUT:
        raise ConfigError("command line: --json and --md: expected one of them on standard output, got both; name a file for one")
    file = args.h2o_history / HISTORY_FILE
    comparison = compare(find_run(args.a, file), find_run(args.b, file))
    documents = (
        (args.json, json.dumps(comparison_object(comparison), indent=1, ensure_ascii=False) + "\n"),
        (args.md, comparison_markdown(comparison)),
    )
    if STDOUT not in (args.json, args.md):
        print("\n".join(comparison_lines(comparison)))
    for path, text in documents:
        if path == STDOUT:
            print(text, end="")
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
    return WORSE_EXIT if comparison.worse else 0
