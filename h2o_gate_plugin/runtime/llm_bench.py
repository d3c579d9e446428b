"""The embedded ``llm_bench``: a drop-in for the C++ program's command line, table, JSON and log lines.

Exit codes: 0; 255 for a bad command line, by the contract; 1 with one line on stderr for everything else that fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from h2o_gate_plugin.errors import ConfigError, H2oGateError
from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.runtime.arguments import ArgumentError, Arguments, parse_arguments, usage
from h2o_gate_plugin.runtime.instances import Instance, sweep
from h2o_gate_plugin.runtime.json_results import json_document
from h2o_gate_plugin.runtime.kv_dump import DumpRequest, dump_request
from h2o_gate_plugin.runtime.measure import LoadedModel, check_instance, load, measure_instance
from h2o_gate_plugin.runtime.prompts import prompt_file, prompt_kind
from h2o_gate_plugin.runtime.results import InstanceResult, Value, columns_of, values_of
from h2o_gate_plugin.runtime.table import header_lines, row_line
from h2o_gate_plugin.runtime.trace import RunTrace, instance_document, trace_document, trace_file

SUPPORTED_BACKEND = "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if "-h" in words or "--help" in words:
        print(usage())
        return 0
    try:
        arguments = parse_arguments(words)
    except ArgumentError as err:
        print(err, file=sys.stderr)
        print(usage())
        return 255
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused by name, not warned about
            bench(arguments)
    except H2oGateError as err:
        print(f"llm_bench: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    return 0


def bench(arguments: Arguments) -> None:
    """Run every instance, a table row each as soon as it is measured. Raises H2oGateError."""
    instances = sweep(arguments)
    _check(arguments, instances)
    kind, file, dump, trace = prompt_kind(), prompt_file(), dump_request(), trace_file()
    columns = columns_of(instances, arguments.kv_cache, arguments.loading_time)
    results: list[tuple[InstanceResult, dict[str, Value]]] = []
    for model, of_model in groupby(instances, key=lambda instance: instance.settings.model):
        group = tuple(of_model)
        loaded = load(model, kind, arguments.repeat if arguments.loading_time else 1, file)
        for instance in group:
            check_instance(instance, loaded)
        for instance in group:
            writer = _dump_writer(dump, loaded, instance, len(instances))
            result = measure_instance(loaded, instance, arguments.repeat, writer, traced=trace is not None)
            values = values_of(result)
            lines = (*header_lines(columns), row_line(columns, values))
            _print_lines(arguments.file_print, result.runs[-1].log, lines[2:] if results else lines)
            results.append((result, values))
    if trace is not None:
        documents = [_traced(result, result.trace) for result, _ in results if result.trace is not None]
        _write(trace, "w", json.dumps(trace_document(documents), allow_nan=False))
    if arguments.json_file is not None:
        _write(arguments.json_file, "w", json.dumps(json_document(results), indent=2, allow_nan=False))


def _check(arguments: Arguments, instances: Sequence[Instance]) -> None:
    if not instances:
        both = " both" if arguments.kv_cache else ""
        raise ConfigError(f"-p and -n: expected token counts > 0{both}, got {arguments.prompts} and {arguments.gens}: no instance to run")
    for backend in arguments.backends:
        if backend != SUPPORTED_BACKEND:
            raise ConfigError(f"-a: expected {SUPPORTED_BACKEND} (the only backend of the embedded engine), got {backend!r}")
    for option in arguments.quant_attentions:
        if option != 0:
            raise ConfigError(f"-qatten: expected 0 (the embedded engine has no quantised attention), got {option}")
    for path in (arguments.file_print, arguments.json_file):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{path}: file: expected a file in an existing folder, got another path; make the folder first")


def _dump_writer(dump: DumpRequest | None, loaded: LoadedModel, instance: Instance, n_instances: int) -> DumpWriter | None:
    """With several instances the run id gets a suffix that keeps them apart."""
    suffix = f"_p{instance.n_prompt}_n{instance.n_gen}" if n_instances > 1 else ""
    return None if dump is None else dump.writer(loaded.model.config.kv_dtype, suffix)


def _traced(result: InstanceResult, trace: RunTrace) -> dict[str, Any]:
    by_position: dict[str, Sequence[float]] | None = None
    if result.quality is not None:
        by_position = {str(name): values for name, values in result.quality.kl_by_position.items()}
    agrees = trace.fingerprint == result.runs[0].fingerprint
    return instance_document(result.instance.n_prompt, result.instance.n_gen, trace, agrees, by_position)


def _print_lines(path: Path | None, log: Sequence[str], table: Sequence[str]) -> None:
    """Log lines to stdout; the table appended to the -fp file, or to stdout."""
    if log:
        print("\n".join(log), flush=True)
    text = "\n".join(table)
    if path is None:
        print(text, flush=True)
    else:
        _write(path, "a", text)


def _write(path: Path, mode: Literal["a", "w"], text: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as err:
        raise ConfigError(f"{path}: file: expected to be able to write it, got {err.strerror}; check its permissions") from err


if __name__ == "__main__":
    sys.exit(main())
