"""``h2o-gate offline``: the seed's offline_lossless_fp16.py under the same option names."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from h2o_gate_plugin.errors import ConfigError, printable
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.kv.dump import StageFilter
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.layer_picture import draw_layers
from h2o_gate_plugin.offline.layer_table import layers_csv
from h2o_gate_plugin.offline.result import OfflineResult
from h2o_gate_plugin.offline.settings import CodecMode, EntryMode, EvaluatorSettings, Layout, Scope, WordDtype
from h2o_gate_plugin.offline.unit_progress import UnitProgress
from h2o_gate_plugin.offline.workers import MAX_JOBS, Jobs, Mapper, thread_mapper
from h2o_gate_plugin.plots import refuse_pictures

_DEFAULTS = EvaluatorSettings()


def add_offline_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Mount the command; ``args.run(args)`` runs it and returns the exit code. Raises H2oGateError from there."""
    parser = subparsers.add_parser(
        "offline",
        help="evaluate the lossless ratio of a KV dump",
        description="Compress a KV dump with the lossless codec, decode and compare every counted byte, and tell the ratio.",
        usage="%(prog)s --dump-dir DIR [options]",
    )
    parser.add_argument(
        "--dump-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that MNN_KV_DUMP_DIR named, one run in it, or any folder of .npy or .safetensors K and V (required)",
    )
    parser.add_argument("--out-json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--out-md", type=Path, metavar="FILE", help="write the result as markdown")
    parser.add_argument("--out-csv", type=Path, metavar="FILE", help="write the figures of each layer as CSV")
    parser.add_argument("--out-svg", type=Path, metavar="FILE", help="draw each layer's ratio and bound (needs the extra 'plots')")
    parser.add_argument("--out-png", type=Path, metavar="FILE", help="the same picture as PNG")
    _flag(parser, "--overwrite", "replace output files that exist", default=False)
    parser.add_argument("--stage", choices=get_args(StageFilter), default=_DEFAULTS.stage, help="entries to take (default %(default)s)")
    parser.add_argument("--scope", choices=get_args(Scope), default=_DEFAULTS.scope, help="how layers are chosen (default %(default)s)")
    _integer(parser, "--front-n", "layers below this one, for --scope front_n")
    _integer(parser, "--layer-start", "first layer, for --scope layer_range")
    _integer(parser, "--layer-end", "last layer, inclusive, -1 = last, for --scope layer_range")
    parser.add_argument("--layer-ids", type=_integers, default=(), metavar="A,B", help="layers, for --scope layer_ids")
    _integer(parser, "--zstd-level", "level of zstd, 1 to 22")
    _flag(parser, "--strict-fp16", "skip 4-byte entries instead of rounding them to fp16", default=_DEFAULTS.strict_fp16)
    _integer(parser, "--min-seq-len", "shortest entry, tokens")
    parser.add_argument("--max-seq-len", type=int, default=0, metavar="N", help="longest entry, tokens; 0 = no limit (default %(default)s)")
    parser.add_argument(
        "--entry-mode",
        choices=get_args(EntryMode),
        default=_DEFAULTS.entry_mode,
        help="how entries are cut and joined (default %(default)s)",
    )
    _integer(parser, "--online-chunk-seq", "tokens per chunk in the chunked modes")
    _integer(parser, "--online-framing-bytes", "bytes counted per tensor chunk in the chunked modes")
    _flag(parser, "--aggregate-by-stage", "count prefill and decode apart", default=_DEFAULTS.aggregate_by_stage)
    parser.add_argument(
        "--codec-mode",
        choices=get_args(CodecMode),
        default=_DEFAULTS.codec_mode,
        help="the contract's arithmetic (adaptive_v22, legacy) or a codec of our own (default %(default)s)",
    )
    _integer(parser, "--adaptive-block-seq", "tokens per predictor block")
    _flag(parser, "--bitshuffle", "shuffle bits before zstd", default=_DEFAULTS.bitshuffle)
    _flag(parser, "--entropy-bound", "hold every payload against its entropy bound, a third of the time", default=_DEFAULTS.entropy_bound)
    for plane in ("k-hi", "k-lo", "v-hi", "v-lo"):
        default = getattr(_DEFAULTS, f"{plane.replace('-', '_')}_predictors")
        help_text = f"predictors to try (default {','.join(default)})"
        parser.add_argument(f"--{plane}-predictors", type=_words, default=default, metavar="A,B", help=help_text)
    parser.add_argument(
        "--layout", choices=get_args(Layout), help="how tensors lie in a folder of .npy or .safetensors; a dump says it itself"
    )
    parser.add_argument(
        "--dtype", choices=get_args(WordDtype), help="what uint16 .npy arrays are whose name does not end in _bf16 or _fp16"
    )
    parser.add_argument("--jobs", type=_jobs, metavar="N|auto", help="units measured at a time (default auto, the usable cores)")
    dask_help = "measure on the workers of this Dask cluster, which must see the dump under the same path"
    parser.add_argument("--dask-scheduler", metavar="ADDRESS", help=dask_help)
    _flag(parser, "--quiet", "no progress on stderr", default=False)
    _flag(parser, "--verbose", "a line per group and per skipped entry on stderr instead of progress", default=False)
    parser.set_defaults(run=run_offline)
    return parser


def run_offline(args: argparse.Namespace) -> int:
    """Evaluate, write what was asked for, print the ratios. Raises ConfigError or DumpError; returns 0, or 130 when interrupted."""
    values = {item.name: getattr(args, item.name) for item in fields(EvaluatorSettings)}
    settings = EvaluatorSettings(**values | {"max_seq_len": None if args.max_seq_len == 0 else args.max_seq_len})
    for path in (args.out_json, args.out_md, args.out_csv, args.out_svg, args.out_png):
        if path is not None and path.exists() and not args.overwrite:
            raise ConfigError(f"{path}: output: expected no such file, got one; pass --overwrite to replace it")
    refuse_pictures({"--out-svg": args.out_svg, "--out-png": args.out_png})
    progress = UnitProgress(None if args.quiet or args.verbose else sys.stderr)
    log: Callable[[str], None] | None = _print_to_stderr if args.verbose else None
    try:
        with _mapper(args, settings) as mapper:
            result = evaluate(args.dump_dir, settings, log=log, mapper=mapper, progress=progress)
    except KeyboardInterrupt:
        progress.close()
        print(
            f"h2o-gate: offline: interrupted after {progress.units} of {progress.total_units} units; nothing was written", file=sys.stderr
        )
        return ExitCode.STOPPED
    finally:
        progress.close()
    texts = (
        (args.out_json, json.dumps(result.to_json(), indent=2) + "\n"),
        (args.out_md, result.to_markdown()),
        (args.out_csv, layers_csv(result.layers)),
    )
    for path, text in texts:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
    for path in (args.out_svg, args.out_png):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_layers(result, path)
    print_result(result)
    return 0


def print_result(result: OfflineResult) -> None:
    """The ratios on stdout; accounting errors on stderr, whether or not anyone asked for more."""
    for warning in result.warnings:
        _print_to_stderr(f"WARNING: {warning}")
    skipped = "".join(f", {reason} {count}" for reason, count in result.skip_reasons.items())
    ratios = f"K {result.k.lossless_ratio:.4f}, V {result.v.lossless_ratio:.4f}"
    print(
        f"lossless_ratio {result.lossless_ratio:.4f} ({ratios}), {result.raw_bytes} -> {result.compressed_bytes} bytes, "
        f"{result.selected_entries} entries, {result.skipped_entries} skipped{skipped}"
    )


def _mapper(args: argparse.Namespace, settings: EvaluatorSettings) -> AbstractContextManager[Mapper]:
    if args.dask_scheduler is None:
        return nullcontext(thread_mapper(args.jobs or "auto"))
    if args.jobs is not None:
        raise ConfigError(f"offline: --jobs: expected nothing beside --dask-scheduler, got {args.jobs!r}; the workers' threads decide")
    from h2o_gate_plugin.offline.cluster import cluster_mapper  # late: importing dask takes a second

    return cluster_mapper(args.dask_scheduler, settings)


def _print_to_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _integer(parser: argparse.ArgumentParser, name: str, help_text: str) -> None:
    default: Any = getattr(_DEFAULTS, name.lstrip("-").replace("-", "_"))
    parser.add_argument(name, type=int, default=default, metavar="N", help=f"{help_text} (default %(default)s)")


def _flag(parser: argparse.ArgumentParser, name: str, help_text: str, *, default: bool) -> None:
    """``--name`` alone means true; ``--name true|false|1|0`` says it."""
    shown = f"{help_text} (default {str(default).lower()})"
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default, metavar="true|false", help=shown)


def _boolean(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return words[text.lower()]


def _jobs(text: str) -> Jobs:
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_JOBS):
        raise argparse.ArgumentTypeError(f"expected auto or an integer from 1 to {MAX_JOBS} (units at a time), got {text!r}")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from err
