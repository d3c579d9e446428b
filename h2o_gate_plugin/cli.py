"""The command `h2o-gate`: thin, on the same functions as the plugin."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from h2o_gate_plugin import __version__
from h2o_gate_plugin.bench import command as bench_command
from h2o_gate_plugin.bench.engine import embedded_engine
from h2o_gate_plugin.errors import ConfigError, H2oGateError
from h2o_gate_plugin.history import command as history_command
from h2o_gate_plugin.offline.command import add_offline_parser
from h2o_gate_plugin.session import analyze

USAGE_EXIT = 2
LLM_BENCH = "llm_bench"


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 1: a gate failed (analyze) or is worse (compare). 2: the command line or a file cannot be used, or a run failed.

    130: Ctrl-C in a sweep.
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (H2oGateError, OSError) as err:
        print(f"h2o-gate: {err}", file=sys.stderr)
        return USAGE_EXIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="h2o-gate",
        description="Benchmark, parse, evaluate and gate KV-cache compression. The gate packs run in pytest: pytest -m m3",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"h2o-gate {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    bench_command.mount(subparsers)
    add_offline_parser(subparsers)
    analyze.mount(subparsers)
    history_command.mount(subparsers)
    where = subparsers.add_parser("where", help="paths of the embedded llm_bench and of the reference model's bench config")
    where.add_argument("--json", action="store_true", help="as one JSON object")
    where.set_defaults(run=_where)
    return parser


def _where(args: argparse.Namespace) -> int:
    paths = {"llm_bench": str(_llm_bench_script()), "model_config": str(embedded_engine().base_config)}
    if args.json:
        print(json.dumps(paths, indent=1))
    else:
        for name, path in paths.items():
            print(f"{name}: {path}")
    return 0


def _llm_bench_script() -> Path:
    """The console script beside this interpreter, else the one on PATH. Raises ConfigError when it is not installed."""
    beside = Path(sys.executable).with_name(LLM_BENCH)
    found = str(beside) if beside.is_file() else shutil.which(LLM_BENCH)
    if found is None:
        raise ConfigError(f"{beside}: llm_bench: expected the console script of pytest-h2o-gate, got none; install the package again")
    return Path(found)


if __name__ == "__main__":
    sys.exit(main())
