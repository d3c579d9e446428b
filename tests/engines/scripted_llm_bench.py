#!/usr/bin/env python3
"""An llm_bench that computes nothing: it keeps the contract and prints what a scenario file tells it to. Standard library only.

The scenario is the JSON file named by the environment variable SCRIPTED_BENCH, else by the model config's key ``scenario``
(relative to its ``base_dir``); without either everything is at its default, which passes every gate. Its keys:

- ``default``: answers for every call; see ANSWERS below.
- ``rules``: a list of ``{"when": {...}, ...answers}``; each one that matches is laid over the answers so far. ``when`` may name
  ``kv`` ("on" | "off"), ``prompt``, ``gen``, ``mode`` (runtime mode), ``dump`` (true | false) and ``call``, which counts from 1
  apart for kv on and off, prompt, gen and dump.

Every call is appended to ``<scenario>.calls.jsonl``, so a test can count launches; one that misbehaves writes its process id, and those
of whom it starts, to ``<scenario>.pids``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

ANSWERS: dict[str, Any] = {
    "cells": {},  # column → cell as printed
    "prefill": "2000.00 ± 5.00",
    "decode": "200.00 ± 1.00",
    "evidence": False,  # print the evidence columns too
    "without": [],  # columns that are not printed at all
    "table": "whole",  # whole | none (no file) | no-rows | cut (the row lacks its last cells) | twice
    "junk": "",  # printed to stdout first
    "stderr": "",  # printed to stderr last
    "exit": 0,
    "signal": "",  # name of a signal to die of, SIGSEGV say
    "signal_parent": "",  # name of a signal that whoever started this gets first, or several, one after the other, SIGINT SIGINT say
    "spans": False,  # write when it started and ended (monotonic seconds) to <scenario>.spans.jsonl
    "hang": False,  # wait for a signal for ever, with a child that does the same; its pid goes to <scenario>.child
    "trace": "none",  # none | whole | other (than what was timed) | broken: what H2O_BENCH_TRACE's file holds
    "misbehaves": "",  # how, by its name in misbehaviour.py, instead of all of the above
    "dump": "mixed",  # none | noise | mixed | constant | no-meta | short: what a KV dump holds
}
MODEL_CELLS = {"model": "scripted", "modelSize": "1.00 MiB", "backend": "CPU", "threads": "1", "precision": "Low"}
H2O_CELLS = {
    "h2o_keep": "0.3125 ± 0.0000",
    "h2o_lossy": "3.200 ± 0.000",
    "h2o_lossless": "1.400 ± 0.000",
    "h2o_target_keep_effective": "0.3125 ± 0.0000",
    "h2o_floor_keep": "0.2500 ± 0.0000",
    "h2o_quantized_keep": "0.3125 ± 0.0000",
    "h2o_evict_us": "80.00 ± 1.00",
    "h2o_codec_us": "900.00 ± 9.00",
    "h2o_lossless_raw_mb": "1.40 ± 0.00",
    "h2o_lossless_comp_mb": "1.00 ± 0.00",
    "h2o_lossless_comp_us": "9000.00 ± 90.00",
    "h2o_lossless_decomp_us": "500.00 ± 5.00",
    "h2o_lossless_queue_peak": "1.00 ± 0.00",
    "h2o_lossless_fallback": "0.00 ± 0.00",
    "h2o_lossless_backpressure_skip": "0.00 ± 0.00",
    "h2o_lossless_async_queue_peak": "1.00 ± 0.00",
    "h2o_lossless_async_wait_us": "0.00 ± 0.00",
    "h2o_lossless_decode_cache_hit": "0.00 ± 0.00",
    "h2o_lossless_decode_cache_miss": "0.00 ± 0.00",
}
OFF_CELLS = {
    "h2o_keep": "1.0000 ± 0.0000",
    "h2o_lossy": "1.000 ± 0.000",
    "h2o_lossless": "1.000 ± 0.000",
    "h2o_target_keep_effective": "1.0000 ± 0.0000",
    "h2o_floor_keep": "1.0000 ± 0.0000",
    "h2o_quantized_keep": "1.0000 ± 0.0000",
}
EVIDENCE_CELLS = {
    "kv_full_mb": "4.0000",
    "kv_resident_mb": "2.0000 ± 0.0000",
    "kv_peak_mb": "4.0000 ± 0.0000",
    "kv_range_full_mb": "3.0000",
    "kv_range_resident_mb": "0.9000 ± 0.0000",
    "kv_range_decode_mb": "0.9500 ± 0.0000",
    "lossless_coverage": "1.0000 ± 0.0000",
    "kv_mismatch_blocks": "0.00 ± 0.00",
    "decode_tokens": "128.00 ± 0.00",
    "prompt_kind": "text",
    "lossless_front_mb": "0.7000 ± 0.0000",
    "lossless_kept_mb": "0.7000 ± 0.0000",
}
QUALITY_CELLS = {
    "nll_full": "1.9000",
    "nll_kv": "1.9200",
    "kl_mean": "0.0100",
    "top1_agree": "0.9500",
    "recall_full": "0.9500",
    "recall_kv": "0.9000",
    "recall_first_full": "0.9000",
    "recall_first_kv": "0.1000",
    "kl_mean_random": "0.0300",
    "kl_mean_window": "0.0200",
    "recall_random": "0.3000",
    "recall_window": "0.2000",
    "quality_prompts": "4",
    "recall_answers": "16",
    "turns_mismatch_rows": "0",
    "kl_masked": "0.00000002",
}
LEFT_ALIGNED = {"model", "backend", "precision", "llm_demo", "prompt_kind", "kept_tokens"}
DUMP_LAYERS, DUMP_HEADS, DUMP_DIM = 3, 2, 32


def main() -> int:
    started_s = time.monotonic()
    args = _arguments()
    config_path = Path(args.model)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        print(f"{config_path}: config: expected a JSON file, got {err}", file=sys.stderr)
        return 1
    scenario_path = _scenario_path(config)
    scenario = json.loads(scenario_path.read_text(encoding="utf-8")) if scenario_path else {}
    facts = {
        "kv": "on" if config.get("kv_h2o_enable") or config.get("kv_lossless_enable") else "off",
        "prompt": args.prompt,
        "gen": args.gen,
        "mode": config.get("kv_lossless_runtime_mode", "probe"),
        "dump": bool(os.environ.get("MNN_KV_DUMP_DIR")),
        "traced": bool(os.environ.get("H2O_BENCH_TRACE")),
    }
    facts["call"] = _count_call(scenario_path, facts)
    answers = {**ANSWERS, **scenario.get("default", {})}
    for rule in scenario.get("rules", []):
        if all(facts[name] == wanted for name, wanted in rule["when"].items()):
            cells = {**answers["cells"], **rule.get("cells", {})}
            answers = {**answers, **rule, "cells": cells}
    for name in answers["signal_parent"].split():
        os.kill(os.getppid(), signal.Signals[name])
    if answers["junk"]:
        print(answers["junk"], flush=True)
    if answers["misbehaves"] and not facts["dump"]:
        return _misbehave(args, facts, answers, scenario_path or config_path)
    if answers["hang"]:
        _hang(scenario_path)
    _print_table(args, facts, answers)
    if facts["traced"] and answers["trace"] != "none":
        text = json.dumps(_trace(args.prompt, args.gen, agrees=answers["trace"] == "whole"))
        Path(os.environ["H2O_BENCH_TRACE"]).write_text(text[:99] if answers["trace"] == "broken" else text, encoding="utf-8")
    if facts["dump"]:
        _write_dump(answers["dump"], args.prompt, args.gen)
    if answers["stderr"]:
        print(answers["stderr"], file=sys.stderr, flush=True)
    if answers["signal"]:
        os.kill(os.getpid(), signal.Signals[answers["signal"]])
    if answers["spans"] and scenario_path is not None:
        with scenario_path.with_name(f"{scenario_path.name}.spans.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps([started_s, time.monotonic()]) + "\n")
    return int(answers["exit"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripted_llm_bench", allow_abbrev=False)
    parser.add_argument("-m", dest="model", required=True)
    parser.add_argument("-a", dest="backend", default="cpu")
    parser.add_argument("-t", dest="threads", default="4")
    parser.add_argument("-qatten", dest="attention", default="0")
    parser.add_argument("-kv", dest="kv", choices=["true"], required=True)
    parser.add_argument("-p", dest="prompt", type=int, required=True)
    parser.add_argument("-n", dest="gen", type=int, required=True)
    parser.add_argument("-rep", dest="repeat", type=int, default=5)
    parser.add_argument("-fp", dest="log", required=True)
    return parser.parse_args()


def _scenario_path(config: dict[str, Any]) -> Path | None:
    if os.environ.get("SCRIPTED_BENCH"):
        return Path(os.environ["SCRIPTED_BENCH"])
    return Path(f"{config['base_dir']}{config['scenario']}") if "scenario" in config else None


def _count_call(scenario: Path | None, facts: dict[str, Any]) -> int:
    """Write this call down and return which of its kind it is, from 1."""
    if scenario is None:
        return 1
    calls = scenario.with_name(f"{scenario.name}.calls.jsonl")
    with calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**facts, "argv": sys.argv}) + "\n")
    written = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    kind = ("kv", "prompt", "gen", "dump")
    return sum(all(call[name] == facts[name] for name in kind) for call in written)


def _hang(scenario: Path | None) -> None:
    import subprocess  # here, because every other call should start fast

    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    if scenario is not None:
        scenario.with_name(f"{scenario.name}.child").write_text(str(child.pid), encoding="utf-8")
    while True:
        signal.pause()


def _misbehave(args: argparse.Namespace, facts: dict[str, Any], answers: dict[str, Any], scenario: Path) -> int:
    from misbehaviour import MISBEHAVIOURS, Call  # type: ignore[import-not-found]  # beside this file; here, so that other calls start fast

    header, ruler, row = _table_lines(args, facts, answers)
    call = Call(Path(args.log), header, ruler, row, scenario.with_name(f"{scenario.name}.pids"))
    call.note(os.getpid())
    return int(MISBEHAVIOURS[answers["misbehaves"]](call))


def _print_table(args: argparse.Namespace, facts: dict[str, Any], answers: dict[str, Any]) -> None:
    if answers["table"] == "none":
        return
    lines = _table_lines(args, facts, answers)
    if answers["table"] == "no-rows":
        lines = lines[:2]
    with Path(args.log).open("a", encoding="utf-8") as log:
        log.write("\n".join(lines * (2 if answers["table"] == "twice" else 1)) + "\n")


def _table_lines(args: argparse.Namespace, facts: dict[str, Any], answers: dict[str, Any]) -> list[str]:
    """Header, ruler, row."""
    cells = {
        **MODEL_CELLS,
        "backend": args.backend.upper(),
        "threads": args.threads,
        "llm_demo": f"prompt={args.prompt}<br>decode={args.gen}",
        "speed(tok/s)": f"{answers['prefill']}<br>{answers['decode']}",
        **H2O_CELLS,
    }
    if facts["kv"] == "off":
        cells |= dict.fromkeys(H2O_CELLS, "0.00 ± 0.00") | OFF_CELLS
    if answers["evidence"]:
        cells |= EVIDENCE_CELLS | {"decode_tokens": f"{args.gen:.2f} ± 0.00"}
        if facts["kv"] == "off":
            cells |= dict.fromkeys(("lossless_front_mb", "lossless_kept_mb"), "n/a")
        cells["kept_tokens"] = _kept_tokens(args.prompt + args.gen, facts["kv"] == "on")
        cells |= QUALITY_CELLS if os.environ.get("H2O_BENCH_QUALITY", "on") == "on" else dict.fromkeys(QUALITY_CELLS, "n/a")
        cells |= {"turns_mismatch_rows": "n/a", "kl_masked": "n/a"} if facts["kv"] == "off" else {}
    cells |= answers["cells"]
    for name in answers["without"]:
        del cells[name]
    header = f"| {' | '.join(cells)} |"
    ruler = f"| {' | '.join('---' if name in LEFT_ALIGNED else '---:' for name in cells)} |"
    printed = list(cells.values())
    if answers["table"] == "cut":
        printed = printed[:-2]
    return [header, ruler, f"| {' | '.join(printed)} |"]


def _kept_tokens(seen: int, evicts: bool) -> str:
    """Two front layers that keep every token and two that keep one in 3.2, as h2o_lossy says."""
    kept = seen * 10 // 32 if evicts else seen
    return f"{seen},{seen},{kept},{kept}"


def _trace(prompt: int, gen: int, agrees: bool) -> dict[str, Any]:
    """Four layers as in _kept_tokens, 1,000 bytes a token and layer; what is kept are the newest tokens."""
    tokens = list(range(prompt, prompt + gen + 1))
    kept = [0, 0, *(2 * [tokens[-1] - tokens[-1] * 10 // 32])]
    series = {
        "tokens": tokens,
        "full_bytes": [4000 * n for n in tokens],
        "resident_bytes": [2000 * n + 2 * 1000 * (n * 10 // 32) for n in tokens],
        "range_full_bytes": [2000 * n for n in tokens],
        "range_resident_bytes": [2 * 1000 * (n * 10 // 32) for n in tokens],
    }
    instance = {
        "prompt_tokens": prompt,
        "gen_tokens": gen,
        "agrees": agrees,
        "range_layers": [2, 4],
        "decode": series,
        "end": {name: values[-1] for name, values in series.items()},
        "kept": [[[start, tokens[-1]]] for start in kept],
        "kl_by_position": {"kv": [0.01] * gen, "random": [0.03] * gen, "window": [0.02] * gen},
    }
    return {"schema_version": 1, "instances": [instance]}


def _write_dump(kind: object, prompt: int, gen: int) -> None:
    if kind == "none":
        return
    run_id = os.environ.get("MNN_KV_DUMP_RUN_ID", "run")
    for layer in range(DUMP_LAYERS):
        folder = Path(os.environ["MNN_KV_DUMP_DIR"]) / run_id / f"layer_{layer}"
        folder.mkdir(parents=True, exist_ok=True)
        for stage, start, end in (("prefill", 0, prompt), ("decode", prompt, prompt + gen)):
            _write_entry(folder, str(kind), run_id, layer, stage, start, end)


def _write_entry(folder: Path, kind: str, run_id: str, layer: int, stage: str, start: int, end: int) -> None:
    names = {}
    for part in ("k", "v"):
        name = f"{part}_t{start}_{end}.bin"
        data = _tensor_bytes(kind, (end - start) * DUMP_HEADS * DUMP_DIM, seed=f"{layer}{part}{start}")
        (folder / name).write_bytes(data[: len(data) // 2] if kind == "short" else data)
        names[f"{part}_file"] = name
    if kind == "no-meta":
        return
    meta = {
        "layer_id": layer,
        "seq_start": start,
        "seq_len": end - start,
        "seq_end_exclusive": end,
        "kv_heads": DUMP_HEADS,
        "head_dim": DUMP_DIM,
        "bytes_per_elem": 2,
        "dtype": "fp16",
        "stage": stage,
        "run_id": run_id,
        **names,
        "quant_key": 0,
        "quant_value": 0,
        "flash_attention": 0,
        "add": end - start,
        "tensor_seq_len": end,
    }
    (folder / f"meta_t{start}_{end}.json").write_text(json.dumps(meta), encoding="utf-8")


def _tensor_bytes(kind: str, n_elements: int, seed: str) -> bytes:
    """Little-endian fp16. noise: both bytes random (ratio just under 1); mixed: random low bytes, constant high bytes (about 2)."""
    import random

    source = random.Random(seed)
    low = source.randbytes(n_elements) if kind != "constant" else bytes(n_elements)
    high = bytes([0x3C]) * n_elements if kind in ("mixed", "constant") else source.randbytes(n_elements)
    data = bytearray(2 * n_elements)
    data[0::2], data[1::2] = low, high
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
