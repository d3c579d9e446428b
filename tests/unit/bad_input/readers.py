"""Every reader of bytes from outside: a valid example, how it is damaged, and what is read.

`test_readers.py` and `make fuzz` go through them.

``read`` goes as far as a user's run would: what a reader lets through must not break what comes after it.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from h2o_gate_plugin.bench.baselines import origins_in
from h2o_gate_plugin.bench.config import write_config
from h2o_gate_plugin.bench.dump import load_dump
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.measurement import CaseMeasurement, ProcessRecord, record_document, save_measurement
from h2o_gate_plugin.bench.metrics_csv import write_metrics_csv
from h2o_gate_plugin.bench.pack import load_pack
from h2o_gate_plugin.bench.preset import expand, load_preset
from h2o_gate_plugin.bench.process import ProcessResult
from h2o_gate_plugin.bench.progress_event import ProgressEvent
from h2o_gate_plugin.bench.prompt_command import filled, parse_prompt_command
from h2o_gate_plugin.bench.prompt_set import load_prompt_set
from h2o_gate_plugin.bench.sweep import load_sweep
from h2o_gate_plugin.bench.table import parse_log, parse_text
from h2o_gate_plugin.bench.trace import read_trace
from h2o_gate_plugin.cli import main
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.exit_codes import ExitCode
from h2o_gate_plugin.gates.evidence import OfflineEvidence, evidence_of
from h2o_gate_plugin.gates.log_scan import scan_log
from h2o_gate_plugin.gates.verdict import judge_all
from h2o_gate_plugin.history.comparison import compare
from h2o_gate_plugin.history.comparison_text import comparison_lines, comparison_markdown
from h2o_gate_plugin.history.database import HISTORY_FILE, add_run
from h2o_gate_plugin.history.run import run_from_folder
from h2o_gate_plugin.kv.codec import every_codec
from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.kv.frame import pack, unpack
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.settings import ONLINE_SIM
from h2o_gate_plugin.offline.sources import read_source
from h2o_gate_plugin.options import OPTIONS, resolve
from h2o_gate_plugin.outside_file import read_bytes
from h2o_gate_plugin.progress import Position, ProgressLines, event_object, read_event
from h2o_gate_plugin.report.model import SUMMARY_FILE
from h2o_gate_plugin.report.page import page
from h2o_gate_plugin.report.summary_json import summary_text
from h2o_gate_plugin.runtime.bench_config import read_bench_config
from h2o_gate_plugin.runtime.checkpoint import load_model
from h2o_gate_plugin.runtime.prompts import PromptSource
from h2o_gate_plugin.runtime.tokenizer import Tokenizer
from h2o_gate_plugin.session.offline import evaluate_dump, load_offline, save_offline
from tests.unit.bad_input.damage import (
    Damage,
    damaged_binary,
    damaged_json,
    damaged_text,
    damaged_yaml,
    with_json_header,
    with_numpy_header,
)
from tests.unit.history.conftest import gate, make_run, row
from tests.unit.report.reports import RUN, make_case, make_report
from tests.unit.runtime.conftest import write_checkpoint

TABLE = """\
| model | modelSize | backend | threads | precision | llm_demo | speed(tok/s) | h2o_keep | h2o_lossy | kept_tokens |
| --- | ---: | --- | ---: | --- | --- | ---: | ---: | ---: | --- |
| tiny | 1.00 MiB | CPU | 1 | Low | prompt=64<br>decode=8 | 2000.00 ± 5.00<br>200.00 ± 1.00 | 0.3125 ± 0.0000 | 3.200 ± 0.000 | 72,22 |
"""
LOG = """\
loading
[H2O] layer=2 kv=72 keep_ratio=0.31 evict=50 lossy_ratio=3.2 evict_us=80
[H2O-LOSSLESS] layer=2 kv=72 start=0 tokens=32 raw=4096 attempt_comp=3000 comp_us=9 decomp_us=5 updates=1 fallback=0 backpressure=0 queue=1
checksum mismatch in block 7
"""
WORDS = (np.arange(12 * 2 * 8, dtype=np.uint16) * 37).reshape(12, 2, 8)


@dataclass(frozen=True)
class Reader:
    """``make`` fills a folder with what ``read`` needs and returns the name of the file in it that is damaged."""

    name: str
    make: Callable[[Path], str]
    damage: Damage
    read: Callable[[Path], object]


READERS: dict[str, Reader] = {}


def _reader(damage: Damage, make: Callable[[Path], str]) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """The function's name is the reader's."""

    def register(read: Callable[[Path], object]) -> Callable[[Path], object]:
        READERS[read.__name__] = Reader(read.__name__, make, damage, read)
        return read

    return register


def _written(name: str, text: str | bytes | Callable[[], str | bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        content = text() if callable(text) else text
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return make


PRESET = """\
description: a preset
prompts: [64, 128]
gens: [8]
repeat: 2
backend: cpu
threads: 1
attention_option: 0
context_tokens: 2048
kv:
  kv_h2o_target_lossy_ratio: [3.2, 4]
  kv_h2o_block_tokens: 16
  kv_lossless_runtime_mode: store
  kv_h2o_log_stats: true
"""
PACK = """\
description: a pack
cases:
  - case: one
    preset: mini.yaml
    runs: 2
    bucket: 128
    set: {kv_lossless_runtime_mode: full}
    budgets: {max_decomp_us: 30000, min_lossy: null}
  - pack: other
    budgets:
      max_decomp_us: 70000
"""
MODEL_SIDE = {
    "base_dir": "model/",
    "llm_config": "llm.json",
    "llm_weight": "w.bin",
    "kv_h2o_enable": True,
    "kv_h2o_ema_alpha": 0.9,
    "kv_lossless_scope": "front_n",
    "kv_h2o_block_tokens": 32,
    "thread_num": 4,
}


@_reader(damaged_yaml, _written("mini.yaml", PRESET))
def preset_yaml(path: Path) -> object:
    return expand(load_preset(path), {})


@_reader(
    damaged_json, _written("mini.json", json.dumps({"prompts": [64], "gens": [8], "repeat": 2, "kv": {"kv_h2o_block_tokens": [16, 32]}}))
)
def preset_json(path: Path) -> object:
    return expand(load_preset(path), {})


def _make_pack(folder: Path) -> str:
    (folder / "mini.yaml").write_text(PRESET)
    (folder / "other.yaml").write_text("cases: [{case: two, preset: mini.yaml}]")
    return _written("own.yaml", PACK)(folder)


@_reader(damaged_yaml, _make_pack)
def pack_yaml(path: Path) -> object:
    return load_pack(path)


def _make_prompts(folder: Path) -> str:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"text {name}")
    return _written("set.yaml", "context_tokens: 4096\nprompts:\n  - {bucket: 128, file: a.txt}\n  - bucket: 512\n    file: b.txt\n")(
        folder
    )


@_reader(damaged_yaml, _make_prompts)
def prompt_manifest(path: Path) -> object:
    return load_prompt_set(path, "--prompts")


@_reader(damaged_json, _written("config.json", json.dumps(MODEL_SIDE)))
def base_config(path: Path) -> object:
    write_config(path, {"kv_h2o_enable": False}, path.with_name("out.json"))
    return path.with_name("out.json").read_text(encoding="utf-8")


def _make_bench_config(folder: Path) -> str:
    (folder / "model").mkdir(exist_ok=True)
    return _written("config.json", json.dumps(MODEL_SIDE))(folder)


@_reader(damaged_json, _make_bench_config)
def bench_config(path: Path) -> object:
    return read_bench_config(path)


@_reader(damaged_text, _written("run.log", TABLE))
def table(path: Path) -> object:
    return parse_log(path)


@_reader(damaged_text, _written("run.log", LOG))
def log_lines(path: Path) -> object:
    return scan_log(path)


def _make_csv(folder: Path) -> str:
    rows = parse_text(TABLE, "run.log")
    tags = [{"case": "m3/joint_full-1", "role": "candidate", "run_id": "run_0001_p64_g8", "pair": "1"}]
    write_metrics_csv(folder / "h2o_metrics.csv", rows, tags)
    return "h2o_metrics.csv"


@_reader(damaged_text, _make_csv)
def metrics_csv(path: Path) -> object:
    return _judged(path)


def _judged(path: Path) -> object:
    limits = resolve({}, {}, {}, path.parent, path.parent).limits_for("m3/joint_full-1", "m3", {})
    cases = [evidence_of(measurement.label, measurement) for measurement in load_measurements(path)]
    return [judge_all(case, lambda: OfflineEvidence(None, None, "none", "none"), limits) for case in cases]


def _make_measurement(folder: Path) -> str:
    measurement = _measurement(folder)
    save_measurement(measurement)
    return "measurement.json"


def _measurement(folder: Path) -> CaseMeasurement:
    rows = parse_text(TABLE, str(folder / "logs" / "run.log"))
    for name, text in (("configs/c.json", json.dumps(MODEL_SIDE)), ("logs/run.log", TABLE), ("stdout/run.txt", LOG)):
        _written(name, text)(folder)
    result = ProcessResult(
        ("llm_bench", "-m", "c.json"), 0, None, 1.5, None, ("last",), folder / "logs" / "run.log", folder / "stdout" / "run.txt"
    )
    record = ProcessRecord(
        "candidate", 1, "run_0001_p64_g8", folder / "configs" / "c.json", result, rows, None, 0.5, folder / "traces" / "t.json"
    )
    baseline = replace(record, role="baseline")
    return CaseMeasurement("k" * 64, "p" * 64, "mini-1", folder, "full", "embedded", 1, True, 2, (record, baseline))


@_reader(damaged_json, _make_measurement)
def measurement_json(path: Path) -> object:
    return _judged(path.parent)


def _make_sweep(folder: Path) -> str:
    records = [record_document(record, folder) for record in _measurement(folder).processes]
    return _written("manifest.json", json.dumps({"plan_sha256": "p", "engine": {"sha256": "e"}, "runs": records}))(folder)


@_reader(damaged_json, _make_sweep)
def sweep_manifest(path: Path) -> object:
    return load_sweep(path.parent)


MANIFEST = {
    "case": "m3/a-1",
    "engine": {"name": "embedded", "argv": ["x"], "sha256": "e" * 64},
    "base_config": {"path": "/m/c.json", "sha256": "c"},
    "host": {"cpu": "a", "cores": 2, "usable_cores": 2, "system": "Linux-6", "python": "3.11.7"},
}


@_reader(damaged_json, _written("manifest.json", json.dumps(MANIFEST)))
def manifest_json(path: Path) -> object:
    return origins_in(path.parent)


def _make_dump_json(folder: Path) -> str:
    (record, _) = _measurement(folder).processes
    return _written("dump.json", json.dumps({"folder": "kv", "reason": None, "record": record_document(record, folder)}))(folder)


@_reader(damaged_json, _make_dump_json)
def dump_json(path: Path) -> object:
    return load_dump(path.parent)


def _trace() -> str:
    path = Path(__file__).parents[2] / "engines" / "scripted_llm_bench.py"
    spec = importlib.util.spec_from_file_location("scripted_llm_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return json.dumps(module._trace(64, 8, agrees=True))


@_reader(damaged_json, _written("t.json", _trace))
def trace_json(path: Path) -> object:

    instances = read_trace(path)
    if not instances:
        return None
    return page(make_report(make_case(measured_runs=(replace(RUN, trace=instances[0]),))), path.parent)


def _make_offline(folder: Path) -> str:
    dumped = folder / "kv"
    _make_dump(dumped)
    save_offline(evaluate_dump(dumped, "a dump"), folder / "offline.json")
    return "offline.json"


@_reader(damaged_json, _make_offline)
def offline_json(path: Path) -> object:

    record = load_offline(path)
    return page(make_report(offline={"upper_bound": record.upper_bound, "online_sim": record.online_sim}), path.parent), record.evidence()


def _make_summary(folder: Path) -> str:
    report = make_report(out_dir=folder, kept_in=folder, engine={"name": "embedded", "argv": [], "sha256": "e" * 64, "model_config": "c"})
    settings = (("--min-lossy", "3", "default"), ("--h2o-from", "not set", "default"))
    return _written(SUMMARY_FILE, summary_text(replace(report, settings=settings)))(folder)


@_reader(damaged_json, _make_summary)
def summary_json(path: Path) -> object:
    run, other = run_from_folder(path.parent), make_run(1, gate())
    comparison = compare(other, run)
    return comparison_lines(comparison), comparison_markdown(comparison).encode("utf-8", "backslashreplace")


def _make_history(folder: Path) -> str:
    for number in (1, 2):
        add_run(
            folder / HISTORY_FILE,
            make_run(number, gate(), gate("lossy_pass", 3.2, 3.0), rows=(row(decode_tps=200.0), row("baseline", decode_tps=201.0))),
        )
    return HISTORY_FILE


@_reader(damaged_binary, _make_history)
def history_file(path: Path) -> object:
    _command("history", "decode_pass", "--h2o-history", str(path.parent))
    _command("history", "decode_tps", "--h2o-history", str(path.parent))
    return _command("compare", "latest~1", "latest", "--h2o-history", str(path.parent))


def _make_history_rows(folder: Path) -> str:
    """A valid file whose cells a JSON document lists; `history_rows` writes them back."""
    _make_history(folder)

    with sqlite3.connect(folder / HISTORY_FILE) as connection:
        cells = {name: connection.execute(f"SELECT * FROM {name}").fetchone() for name in ("runs", "cases", "gates", "rows")}  # noqa: S608
    connection.close()
    return _written("cells.json", json.dumps(cells))(folder)


@_reader(damaged_json, _make_history_rows)
def history_rows(path: Path) -> object:
    """What any program may have written into the tables: SQLite keeps a text where a number is declared."""

    try:
        cells = json.loads(_content(path))
        with sqlite3.connect(path.with_name(HISTORY_FILE)) as connection:
            for name in ("runs", "cases", "gates", "rows"):
                connection.execute(f"DELETE FROM {name} WHERE number = 1")  # noqa: S608
                values = [json.dumps(value) if isinstance(value, dict | list) else value for value in cells[name]]
                connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        connection.close()
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError, OSError, sqlite3.Error) as err:
        raise ConfigError(f"{path.name}: not written: {str(err)[:20]!r}") from err
    return history_file(path)


def _command(*words: str) -> int:
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(words)
    if "Traceback" in out.getvalue():
        raise AssertionError(out.getvalue())
    return code


def _make_progress(folder: Path) -> str:

    position = Position("m3/joint_full-1", 1, 4, 8)
    events = [
        ProgressEvent(kind, "mini-1", "run_0001_p64_g8_k0.3", "candidate", 1, 4, 0, 8, 1.0, 0.5, None, 200.0)
        for kind in ("started", "ended")
    ]
    return _written("progress.jsonl", "".join(json.dumps(event_object(position, event)) + "\n" for event in events))(folder)


def _damaged_lines(data: bytes, random: Any) -> bytes:
    lines = data.splitlines()
    index = random.randrange(len(lines))
    lines[index] = damaged_json(lines[index], random).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


@_reader(_damaged_lines, _make_progress)
def progress_lines(path: Path) -> object:
    lines = ProgressLines()
    events = [read_event(raw) for raw in _content(path).splitlines()]
    return [lines.line(event) for event in events if event is not None]


def _make_dump(folder: Path) -> str:
    for start, stage in ((0, "prefill"), (12, "decode")):
        DumpWriter(folder, "run").write(0, WORDS, WORDS, start, "prefill" if stage == "prefill" else "decode")
    return "run/layer_0/meta_t0_12.json"


@_reader(damaged_json, _make_dump)
def dump_meta(path: Path) -> object:
    return _evaluated(path.parents[2])


def _make_dump_binary(folder: Path) -> str:
    _make_dump(folder)
    return "run/layer_0/k_t0_12.bin"


@_reader(damaged_binary, _make_dump_binary)
def dump_binary(path: Path) -> object:
    return _evaluated(path.parents[2])


def _evaluated(folder: Path, **settings: Any) -> object:
    result = evaluate(read_source(folder, **settings), ONLINE_SIM)
    return json.dumps(result.to_json()), result.to_markdown()


def _npy() -> bytes:
    file = BytesIO()
    np.save(file, WORDS.view(np.float16))
    return file.getvalue()


def _make_npy(folder: Path) -> str:
    (folder / "layer_0_v.npy").write_bytes(_npy())
    return _written("layer_0_k.npy", _npy)(folder)


@_reader(with_numpy_header, _make_npy)
def npy(path: Path) -> object:
    return _evaluated(path.parent, layout="seq_head_dim")


def _make_tensors(folder: Path) -> str:
    tensors = {f"layer_0_{part}": WORDS.view(np.float16) for part in "kv"}
    return _written("kv.safetensors", save(tensors))(folder)


@_reader(with_json_header, _make_tensors)
def kv_safetensors(path: Path) -> object:
    return _evaluated(path.parent, layout="seq_head_dim")


def _make_checkpoint(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        write_checkpoint(folder)
        return name

    return make


@_reader(damaged_json, _make_checkpoint("config.json"))
def model_config(path: Path) -> object:
    return load_model(path.parent)


@_reader(with_json_header, _make_checkpoint("model.safetensors"))
def weights(path: Path) -> object:
    return load_model(path.parent)


def _make_shards(folder: Path) -> str:
    write_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    size = int.from_bytes((folder / "part-1.safetensors").read_bytes()[:8], "little")
    names = [name for name in json.loads((folder / "part-1.safetensors").read_bytes()[8 : 8 + size]) if name != "__metadata__"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part-1.safetensors")}
    return _written("model.safetensors.index.json", json.dumps(index))(folder)


@_reader(damaged_json, _make_shards)
def shards_index(path: Path) -> object:
    return load_model(path.parent)


@_reader(damaged_json, _make_checkpoint("tokenizer.json"))
def tokenizer_json(path: Path) -> object:
    tokenizer = Tokenizer(path.parent, 260)
    encoding = tokenizer.encode("def f(x):\n    return 17 + x  # \u00e9\u4e2d")
    assert all(0 <= token < 260 for token in encoding.ids)
    return encoding


def _make_prompt_file(folder: Path) -> str:
    write_checkpoint(folder)
    return _written("prompt.txt", "some text\n" * 20)(folder)


@_reader(damaged_text, _make_prompt_file)
def prompt_file(path: Path) -> object:
    source = PromptSource(Tokenizer(path.parent, 260), "text", path, path)
    return source.measured_prompt(8, 4)


COMMAND = "python3 ./adapter.py -m {config} --prompt-file {prompt_file} -p {prompt} -n {gen} -fp {log} -t {threads}"


@_reader(damaged_text, _written("command.txt", COMMAND))
def prompt_command(path: Path) -> object:
    text = _content(path).decode("utf-8", errors="surrogateescape")
    template = parse_prompt_command(text, "--prompt-command", path.parent)
    return filled(
        template,
        dict.fromkeys(
            ("config", "prompt_file", "prompt", "gen", "log", "llm_bench", "repeat", "threads", "backend", "attention_option"), "x"
        ),
    )


OPTION_VALUES = {
    "max_decomp_us": "30000",
    "require_evidence": "lossy_pass,scope_pass",
    "decode_baseline": "200",
    "decode_pairs": "4",
    "case_timeout_s": "900",
    "packs": "own.yaml",
    "prompts_seed": "7",
    "llm_bench": "engine",
    "model_config": "config.json",
    "threads": "1",
    "backend": "cpu",
    "github": "off",
    "decode_time_budget_s": "300",
    "preset": "target_core_gate_v5",
    "out_dir": "out",
    "history_dir": "h",
    "runtime_mode": "full",
    "prompts_per_bucket": "2",
}


def _make_options(folder: Path) -> str:
    (folder / "mini.yaml").write_text(PRESET)
    _make_pack(folder)
    return _written("options.json", json.dumps(OPTION_VALUES))(folder)


def _texts(path: Path) -> dict[str, str]:
    """What a shell could hand over: strings without NUL."""

    try:
        document = json.loads(_content(path))
        return {name: str(text).replace("\0", "") for name, text in document.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as err:
        raise ConfigError(f"{path.name}: no options: {str(err)[:20]!r}") from err


@_reader(damaged_json, _make_options)
def option_values(path: Path) -> object:
    """On the command line, in the environment and in the ini file."""
    texts, folder = _texts(path), path.parent
    known = {option.name: option for option in OPTIONS}
    chosen: Mapping[str, str] = {name: text for name, text in texts.items() if name in known}
    exported = {known[name].env[0]: text for name, text in chosen.items()}
    written = {known[name].ini: text for name, text in chosen.items()}
    results = []
    for typed, env, ini in ((chosen, {}, {}), ({}, exported, {}), ({}, {}, written)):
        resolved = resolve(typed, env, ini, folder, folder)
        if resolved.preset is not None:
            load_preset(resolved.preset)
        results.append(resolved.as_table())
    return results


BENCH_VALUES = {
    "--prompts": "64,128",
    "--gens": "8",
    "--repeat": "2",
    "--h2o-keep-ratios": "0.3,0.4",
    "--kv-lossless-scope": "front_n",
    "--threads": "1",
    "--timeout-s": "10",
    "--out-dir": "out",
}


@_reader(damaged_json, _written("options.json", json.dumps(BENCH_VALUES)))
def command_line(path: Path) -> object:
    """Of `h2o-gate bench`, which plans and starts nothing, of `history` and of `offline`."""
    words = [word for name, text in _texts(path).items() if name in BENCH_VALUES for word in (name, text)]
    last = _texts(path).get("--repeat", "1")
    with chdir(path.parent):
        for line in (("bench", *words, "--dry-run"), ("history", last, "--last", last), ("offline", "--dump-dir", last, "--jobs", last)):
            try:
                _command(*line)
            except SystemExit as err:
                if err.code != ExitCode.WRONG_CONFIGURATION:
                    raise AssertionError(f"{line}: exit code {err.code}") from err
    return None


def _frame() -> bytes:
    return pack(every_codec()[0], WORDS, 3, "k", 5)


@_reader(damaged_binary, _written("frame", _frame))
def frame(path: Path) -> object:
    return unpack(_content(path))


def _content(path: Path) -> bytes:
    """For what is read from bytes and not from a file."""
    try:
        return read_bytes(path)
    except OSError as err:
        raise ConfigError(f"{path.name}: not read") from err
