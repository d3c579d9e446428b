# PYTHON_ARGCOMPLETE_OK
"""The command `h2o-gate`: thin, on the same functions as the plugin."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from h2o_gate_plugin import __version__
from h2o_gate_plugin.bench import command as bench_command
from h2o_gate_plugin.bench.engine import embedded_engine
from h2o_gate_plugin.errors import ConfigError, H2oGateError, printable
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.history import command as history_command
from h2o_gate_plugin.interrupts import Interrupts
from h2o_gate_plugin.offline.command import add_offline_parser
from h2o_gate_plugin.report.summary_json import SCHEMA_FILE
from h2o_gate_plugin.session import analyze

LLM_BENCH = "llm_bench"
EXIT_CODES = """\
exit codes:
  0   done, and nothing failed
  1   a gate failed (analyze), or is worse (compare)
  2   a run failed (bench, sweep)
  4   the command line, an option or a file cannot be used
  10  nothing to judge
  11  the engine failed in every run (a gate pack in pytest)
  12  the report could not be written (a gate pack in pytest)
  130 Ctrl-C, SIGTERM or SIGHUP

The gate packs run in pytest: `pytest -m m3`, options in `pytest --help` under h2o-gate.
"""


class Parser(argparse.ArgumentParser):
    """Its subcommands are of this class too."""

    def error(self, message: str) -> NoReturn:
        """Wrong words end with 4, as in pytest, where argparse says 2."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.WRONG_CONFIGURATION, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; exit_codes.py has them all."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell's completion alone
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    interrupts = Interrupts()
    interrupts.install()
    try:
        return int(args.run(args))
    except (H2oGateError, OSError) as err:
        print(f"h2o-gate: {printable(str(err))}", file=sys.stderr)
        return ExitCode.WRONG_CONFIGURATION
    except KeyboardInterrupt:
        print("h2o-gate: interrupted", file=sys.stderr)
        return ExitCode.STOPPED
    finally:
        interrupts.uninstall()


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="h2o-gate",
        description="Benchmark, parse, evaluate and gate the KV-cache compression of an LLM runtime.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"h2o-gate {__version__}")
    subparsers = parser.add_subparsers(title="commands (each has --help)", required=True, metavar="COMMAND")
    bench_command.mount(subparsers)
    add_offline_parser(subparsers)
    analyze.mount(subparsers)
    history_command.mount(subparsers)
    where = subparsers.add_parser(
        "where",
        help="print the paths of the embedded llm_bench and of its model",
        description="Print the paths of the embedded llm_bench and of its bench config, for --llm-bench and --model-config.",
        allow_abbrev=False,
    )
    where.add_argument("--json", action="store_true", help="as one JSON object")
    where.set_defaults(run=_where)
    schema = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of summary.json",
        description="Print the JSON Schema (draft 2020-12) of summary.json, which every gate run writes.",
        allow_abbrev=False,
    )
    schema.set_defaults(run=_schema)
    return parser


def _where(args: argparse.Namespace) -> int:
    paths = {"llm_bench": str(_llm_bench_script()), "model_config": str(embedded_engine().base_config)}
    if args.json:
        print(json.dumps(paths, indent=1))
    else:
        for name, path in paths.items():
            print(f"{name}: {path}")
    return 0


def _schema(args: argparse.Namespace) -> int:
    print(SCHEMA_FILE.read_text(encoding="utf-8"), end="")
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
