"""The subcommands `bench`, `sweep` and `parse`: the option names of the seed's scripts on this package's functions."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from h2o_gate_plugin.bench.engine import Engine, embedded_engine, external_engine
from h2o_gate_plugin.bench.front import front_of
from h2o_gate_plugin.bench.front_plot import write_front_picture
from h2o_gate_plugin.bench.front_text import front_lines, write_front_csv
from h2o_gate_plugin.bench.measurement import ProcessRecord
from h2o_gate_plugin.bench.metrics_csv import write_metrics_csv
from h2o_gate_plugin.bench.preset import BACKENDS, DEFAULT_BACKEND, DEFAULT_THREADS, Preset, expand, load_preset
from h2o_gate_plugin.bench.run_folder import make_own, run_folder
from h2o_gate_plugin.bench.sweep import load_sweep, run_sweep, sweep_argvs
from h2o_gate_plugin.bench.table import parse_log
from h2o_gate_plugin.declared import whole_number
from h2o_gate_plugin.errors import ConfigError, printable
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvOption, KvValue
from h2o_gate_plugin.plots import PLOTS, can_draw

SWEEP = "sweep"

_T = TypeVar("_T")

_RENAMED = {
    "kv_h2o_target_keep_ratio": "--h2o-keep-ratios",
    "kv_h2o_block_tokens": "--h2o-block-tokens",
    "kv_h2o_ema_alpha": "--h2o-ema-alphas",
    "kv_h2o_update_interval": "--h2o-update-intervals",
    "kv_h2o_target_lossy_ratio": "--h2o-target-lossy-ratios",
}
KV_FLAGS: Mapping[str, str] = {
    key: _RENAMED.get(key, "--" + key.removeprefix("kv_" if key.startswith("kv_h2o_") else "").replace("_", "-")) for key in KV_OPTIONS
}
"""kv_ key → flag: ``--h2o-…`` and ``--kv-lossless-…``; a comma list sweeps (predictor lists excepted: they are lists already)."""


def mount(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three subcommands; each sets ``run``, a function from the parsed arguments to the exit code."""
    bench = subparsers.add_parser(
        "bench",
        help="run llm_bench over every combination of comma-listed values",
        description="Write a config for every combination of the listed values and run llm_bench on each.",
        usage="%(prog)s [options]",
        allow_abbrev=False,
    )
    _add_engine(bench)
    lengths = bench.add_argument_group("lengths (LIST: values, comma separated)")
    lengths.add_argument("--prompts", default="512,1024", metavar="LIST", help="prompt tokens (default %(default)s)")
    lengths.add_argument("--gens", default="128", metavar="LIST", help="generated tokens (default %(default)s)")
    lengths.add_argument("--repeat", default="2", metavar="N", help="measured repeats (default %(default)s)")
    eviction = bench.add_argument_group("H2O eviction")
    lossless = bench.add_argument_group("lossless store")
    for key, flag in KV_FLAGS.items():
        option = KV_OPTIONS[key]
        group = eviction if key.startswith("kv_h2o_") else lossless
        group.add_argument(flag, dest=key, metavar="LIST", help=f"{key}: {option.allowed} (default {_shown(option.suite_default)})")
    bench.set_defaults(run=run_bench_command)

    sweep = subparsers.add_parser(
        "sweep",
        help="run llm_bench over every combination of a preset, and show their Pareto front",
        description="Run llm_bench once for every combination of values of a preset; ends in the Pareto front of the runs.",
        usage="%(prog)s --preset NAME|FILE [options]",
        allow_abbrev=False,
    )
    sweep.add_argument("--preset", required=True, metavar="NAME|FILE", help="a preset's name, or a YAML or JSON file (required)")
    _add_engine(sweep)
    sweep.set_defaults(run=run_sweep_command)

    parse = subparsers.add_parser(
        "parse",
        help="turn llm_bench logs into a CSV",
        description="Read the tables of llm_bench logs into one CSV, which `h2o-gate analyze` and `pytest --h2o-from` judge.",
        usage="%(prog)s (--log-dir DIR | --log-files FILE ...) --out-csv FILE",
        allow_abbrev=False,
    )
    parse.add_argument("--log-dir", type=Path, metavar="DIR", help="read every *.log in this folder")
    parse.add_argument("--log-files", nargs="+", default=[], metavar="FILE", help="read these logs, apart or comma separated")
    parse.add_argument("--out-csv", type=Path, required=True, metavar="FILE", help="write the rows here (required)")
    parse.set_defaults(run=run_parse_command)


def _add_engine(command: argparse.ArgumentParser) -> None:
    parser = command.add_argument_group("engine and run")
    parser.add_argument("--llm-bench", type=Path, metavar="FILE", help="an llm_bench executable (default: the embedded engine)")
    parser.add_argument("--base-config", type=Path, metavar="FILE", help="model config.json (default: the reference model)")
    parser.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help="folder for configs, logs and manifest; one that was begun goes on (default: h2o-out/<UTC time>-<command>)",
    )
    parser.add_argument("--backend", choices=BACKENDS, help="backend of the engine (default: the preset's, else cpu)")
    parser.add_argument("--threads", metavar="N", help="threads of the engine (default: the preset's, else 1)")
    parser.add_argument("--attention-option", metavar="N", help="llm_bench's -qatten (default: the preset's, else 0)")
    parser.add_argument("--timeout-s", default="1800", metavar="S", help="seconds after which one run is stopped (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the calls, run nothing, write nothing")


def run_bench_command(args: argparse.Namespace) -> int:
    """Exit code 1 if a run failed, 11 if every one did. Raises ConfigError before anything runs."""
    values = {key: _sweep(KV_OPTIONS[key], flag, text) for key, flag in KV_FLAGS.items() if (text := getattr(args, key)) is not None}
    preset = Preset(
        name="bench",
        path=None,
        description="from the command line",
        prompts=_numbers("--prompts", args.prompts, 1),
        gens=_numbers("--gens", args.gens, 1),
        repeat=_number("--repeat", args.repeat, 1),
        backend=DEFAULT_BACKEND,
        threads=DEFAULT_THREADS,
        attention_option=0,
        values=values,
    )
    return _run(args, preset, "bench")


def run_sweep_command(args: argparse.Namespace) -> int:
    """Exit code 2 if a run failed, 130 after Ctrl-C. Raises ConfigError before anything runs."""
    return _run(args, load_preset(args.preset), SWEEP)


def run_parse_command(args: argparse.Namespace) -> int:
    """Write the CSV; a file given twice counts once. Raises ConfigError without logs, TableError for a bad one."""
    files = [Path(name) for names in args.log_files for name in names.split(",") if name]
    if args.log_dir is not None:
        if not args.log_dir.is_dir():
            raise ConfigError(f"{args.log_dir}: --log-dir: expected a folder of logs, got no such folder; check the path")
        files = sorted(args.log_dir.glob("*.log")) + files
    once = {path.resolve(): path for path in files}
    if not once:
        raise ConfigError("parse: logs: expected --log-dir with *.log files or --log-files, got none; name at least one log")
    rows = tuple(row for path in once.values() for row in parse_log(path))
    args.out_csv.parent.mkdir(parents=True, exist_ok=True)
    write_metrics_csv(args.out_csv, rows)
    print(f"{args.out_csv}: {len(rows)} rows from {len(once)} logs")
    return 0


def _run(args: argparse.Namespace, preset: Preset, command: str) -> int:
    preset = replace(
        preset,
        backend=args.backend or preset.backend,
        threads=preset.threads if args.threads is None else _number("--threads", args.threads, 1),
        attention_option=preset.attention_option
        if args.attention_option is None
        else _number("--attention-option", args.attention_option, 0),
    )
    engine = _engine(args)
    out_dir: Path = args.out_dir or run_folder(Path(), command)
    if args.dry_run:
        for argv in sweep_argvs(engine, preset, out_dir):
            print(printable(shlex.join(argv)))
        return 0
    timeout_s = _number("--timeout-s", args.timeout_s, 1)
    if args.out_dir is None:
        out_dir = make_own(out_dir)
    try:
        records = run_sweep(engine, preset, out_dir, timeout_s, lambda line: print(printable(line), flush=True))
        interrupted = False
    except KeyboardInterrupt:
        records, interrupted = load_sweep(out_dir.absolute()), True
    if command == SWEEP:
        _show_front(preset, out_dir, records)
    failed = sum(record.error is not None for record in records)
    print(f"{out_dir}: {len(records) - failed} of {len(expand(preset, {}))} runs done" + (f", {failed} FAILED" if failed else ""))
    if interrupted:
        print(f"interrupted; the same command with --out-dir {shlex.quote(str(out_dir))} goes on with the runs that are left")
        return ExitCode.STOPPED
    return ExitCode.RUN_FAILED if failed else ExitCode.OK


def _show_front(preset: Preset, out_dir: Path, records: Sequence[ProcessRecord]) -> None:
    """Print the Pareto front, and write it as sweep.csv and, where matplotlib is installed, pareto.svg."""
    swept = (key for key, values in preset.values.items() if len(values) > 1)
    front = front_of(expand(preset, {}), swept, records)
    print("\n" + "\n".join(map(printable, front_lines(front))) + "\n")
    write_front_csv(out_dir / "sweep.csv", front)
    print(f"table: {out_dir / 'sweep.csv'}")
    if can_draw():
        write_front_picture(out_dir / "pareto.svg", f"Sweep of {preset.name}: the Pareto front, with the numbers of its runs", front)
        print(f"picture: {out_dir / 'pareto.svg'}")
    else:
        print(f"picture: none, matplotlib is not installed; {PLOTS}")


def _engine(args: argparse.Namespace) -> Engine:
    if args.llm_bench is None:
        return embedded_engine(args.base_config)
    if args.base_config is None:
        raise ConfigError("command line: --base-config: expected the model's config.json with --llm-bench, got nothing; name it")
    return external_engine(args.llm_bench, args.base_config)


def _sweep(option: KvOption, flag: str, text: str) -> tuple[KvValue, ...]:
    """The values of a comma list, in the key's own type. Raises ConfigError."""
    items = [text] if option.type == "words" else text.split(",")
    return _distinct(flag, tuple(option.check(_typed(option, item.strip()), f"command line: {flag}") for item in items))


def _typed(option: KvOption, text: str) -> Any:
    """``text`` in the option's type where it reads so; else as it is, for ``check`` to refuse with what is allowed."""
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": _bool}
    try:
        return readers.get(option.type, str)(text)
    except ValueError:
        return text


def _bool(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _numbers(flag: str, text: str, low: int) -> tuple[int, ...]:
    return _distinct(flag, tuple(_number(flag, item, low) for item in text.split(",")))


def _number(flag: str, text: str, low: int) -> int:
    number = whole_number(text.strip())
    if number is None or number < low:
        raise ConfigError(f"command line: {flag}: expected an integer >= {low}, got {text!r:.80}; correct it")
    return number


def _distinct(flag: str, values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) != len(values):
        raise ConfigError(f"command line: {flag}: expected each value once, got {values!r}; remove the double one")
    return values


def _shown(value: KvValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
