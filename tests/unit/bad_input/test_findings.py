"""What fuzzing found, a test each: a file that ended in another exception, in a wait or in a heap of memory, and the error it gives."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.baselines import origins_in
from h2o_gate_plugin.bench.config import write_config
from h2o_gate_plugin.bench.kept import load_measurements
from h2o_gate_plugin.bench.measurement import load_measurement
from h2o_gate_plugin.bench.pack import load_pack
from h2o_gate_plugin.bench.preset import find_file, load_preset
from h2o_gate_plugin.bench.prompt_command import parse_prompt_command
from h2o_gate_plugin.bench.table import parse_text
from h2o_gate_plugin.bench.trace import read_trace
from h2o_gate_plugin.declared import as_declared
from h2o_gate_plugin.errors import ConfigError, TableError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.history.database import HISTORY_FILE, open_history
from h2o_gate_plugin.history.run import run_from_folder
from h2o_gate_plugin.kv.dump import read_dump
from h2o_gate_plugin.kv_options import KV_OPTIONS
from h2o_gate_plugin.offline.sources import read_source
from h2o_gate_plugin.options import resolve
from h2o_gate_plugin.outside_file import read_bytes, read_json
from h2o_gate_plugin.progress import read_event
from h2o_gate_plugin.runtime.checkpoint import load_model
from h2o_gate_plugin.runtime.json_object import read_json_object
from h2o_gate_plugin.runtime.tokenizer import Tokenizer
from h2o_gate_plugin.session.offline import load_offline
from tests.unit.bad_input.readers import PRESET, READERS
from tests.unit.history.conftest import gate

DEEP = '{"a":' * 5000 + "1" + "}" * 5000


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """What waited for ever fails here."""

    def hangs(*_: object) -> None:
        raise TimeoutError("still at it after two minutes")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def changed(folder: Path, reader: str, **values: Any) -> Path:
    """The reader's valid file with some keys of its object replaced."""
    path = folder / READERS[reader].make(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


@pytest.mark.parametrize(
    "value",
    [
        '!!int ""',
        "!!bool x",
        "!!timestamp x",
        "!!float x",
        "0x" + "f" * 5000,
        "1" + ":59" * 20_000,
        '"\\ud800"',
        "&a [*a]",
        "0001-01-01 00:00:00 +99:99",
    ],
)
def test_a_yaml_value_that_its_constructor_chokes_on_is_an_error_with_its_line(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PRESET.replace("repeat: 2", f"repeat: {value}"))
    with pytest.raises(ConfigError, match=r"a\.yaml:4: "):
        load_preset(tmp_path / "a.yaml")


def test_a_key_with_a_line_feed_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"pro\\nmpts\\u001b[31m": [64], "gens": [8]}')
    with pytest.raises(ConfigError) as caught:
        load_preset(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_billions_of_laughs_are_refused_at_the_first_alias(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
    (tmp_path / "a.yaml").write_text(bomb)
    with pytest.raises(ConfigError, match="alias"):
        load_preset(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000 + "}" * 100_000, "- " * 50_000, "a: [" * 5000])
def test_brackets_without_end_are_told_at_once(text: str, tmp_path: Path) -> None:
    """PyYAML's scanner looks at every open one for each token: minutes for 100,000."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"nesting|expected YAML"):
        load_preset(tmp_path / "a.yaml")


def test_a_preset_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PRESET + "#" * (1 << 21))
    with pytest.raises(ConfigError, match="more than 1048576"):
        load_preset(tmp_path / "a.yaml")


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), -(10**400)])
@pytest.mark.parametrize("key", ["kv_h2o_block_tokens", "kv_h2o_ema_alpha", "kv_h2o_target_lossy_ratio"])
def test_a_number_beyond_every_float_is_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        KV_OPTIONS[key].check(value, "here")


def test_a_budget_beyond_every_float_is_out_of_range(tmp_path: Path) -> None:
    READERS["pack_yaml"].make(tmp_path)
    path = tmp_path / "own.json"
    case = {"case": "a", "preset": "mini.yaml", "budgets": {"min_lossy": 10**39}}
    path.write_text(json.dumps({"cases": [case]}))
    with pytest.raises(ConfigError, match="min_lossy: expected a number"):
        load_pack(path)


@pytest.mark.parametrize("text", [DEEP, "9" * 5000, "NaN", "1e999", "[1, Infinity]"])
def test_json_that_python_chokes_on_or_alone_takes_is_a_value_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"nested too deep|integer string conversion|in place of a number"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)],
    ids=["FIFO", "folder", "device", "circle"],
)
def test_only_a_regular_file_is_read(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError, match=r"regular file|Is a directory|symbolic links"):
        read_bytes(tmp_path / "a")


def test_a_small_file_takes_a_small_buffer_however_large_it_might_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"small")
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "a", 1 << 29) == b"small"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="11 bytes, more than 10"):
        read_bytes(tmp_path / "a", 10)


def test_half_a_character_in_a_bench_config_is_written_as_json_spells_it(tmp_path: Path) -> None:
    path = changed(tmp_path, "base_config", llm_config="\ud800")
    write_config(path, {}, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["llm_config"] == "\ud800"


def test_half_a_character_in_a_report_is_spelled(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", json.dumps("\udcff", ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == "\udcff"


@pytest.mark.parametrize("values", [{"engine": 1}, {"host": [1]}, {"engine": {"sha256": ["a"]}}, {"base_config": {"sha256": 3}}])
def test_a_manifest_of_other_types_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    path = changed(tmp_path, "manifest_json", **values)
    with pytest.raises(ConfigError, match=r"manifest\.json: manifest: expected"):
        origins_in(path.parent)


@pytest.mark.parametrize("values", [{"pairs": "1"}, {"label": None}, {"planned": 10**30}, {"baseline": 1}, {"engine": ["x"]}])
def test_a_measurement_of_other_types_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    path = changed(tmp_path, "measurement_json", **values)
    with pytest.raises(ConfigError, match=next(iter(values))):
        load_measurement(path)


@pytest.mark.parametrize("values", [{"overall_pass": 2}, {"seconds": "x"}, {"pack": 1}])
def test_a_summary_of_other_types_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    path = changed(tmp_path, "summary_json", **values)
    with pytest.raises(ConfigError, match=next(iter(values))):
        run_from_folder(path.parent)


def test_a_trace_with_a_picture_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / READERS["trace_json"].make(tmp_path)
    document = json.loads(path.read_text())
    document["instances"][0]["gen_tokens"] = 2**40
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="kept positions"):
        read_trace(path)


@pytest.mark.parametrize("layers", [True, [1], [{"part": "k"}], [{"part": "k", "layer": "a", "lossless_ratio": 1.0}]])
def test_an_offline_result_whose_layers_cannot_be_drawn_is_named(layers: Any, tmp_path: Path) -> None:
    path = tmp_path / READERS["offline_json"].make(tmp_path)
    document = json.loads(path.read_text())
    document["online_sim"]["layers"] = layers
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="offline result"):
        load_offline(path)


@pytest.mark.parametrize("line", [b"", b"{}", b'{"event": {}}', b"\xff", b"[1]", DEEP.encode(), b'{"unix_time": "x"}'])
def test_a_progress_line_that_is_none_is_passed_over(line: bytes) -> None:
    """An exception there would end the thread that shows the progress, or the run."""
    assert read_event(line) is None


def test_a_progress_line_without_a_field_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / READERS["progress_lines"].make(tmp_path)
    document = json.loads(path.read_text().splitlines()[1])
    assert read_event(json.dumps(document).encode()) == document
    for name in document["event"]:
        less = document | {"event": {key: value for key, value in document["event"].items() if key != name}}
        assert read_event(json.dumps(less).encode()) is None


def test_a_preset_of_a_pack_whose_name_is_too_long_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"cases:\n  - {{case: a, preset: {'x' * 3000}}}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:2: preset"):
        load_pack(tmp_path / "own.yaml")


def test_a_history_whose_schema_is_no_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / READERS["history_file"].make(tmp_path)
    data = path.read_bytes()
    assert b"CREATE TABLE gates" in data
    path.write_bytes(data.replace(b"CREATE TABLE gates", b"CREATE T\x8f\x8f\x8f\x8f gates"))
    with pytest.raises(ConfigError, match="history: expected a readable SQLite file"), open_history(path) as history:
        history.runs()


@pytest.mark.parametrize("keys", [("seq_len", "kv_heads"), ("seq_start", "seq_end_exclusive")])
def test_a_dumps_meta_with_numbers_whose_product_does_not_print_is_skipped(keys: tuple[str, str], tmp_path: Path) -> None:
    changed(tmp_path, "dump_meta", **dict.fromkeys(keys, int("9" * 4300)))
    (skipped,) = read_dump(tmp_path).skipped
    assert skipped.reason == "bad_meta"


def test_a_link_to_itself_among_tensors_is_skipped(tmp_path: Path) -> None:
    READERS["npy"].make(tmp_path)
    (tmp_path / "layer_1_k.npy").symlink_to(tmp_path / "layer_1_k.npy")
    (skipped,) = read_source(tmp_path, "seq_head_dim").skipped
    assert skipped.reason == "unsafe_path"


@pytest.mark.parametrize("name", ["layer_1_k.npy", "kv.safetensors"])
def test_a_fifo_among_tensors_is_skipped(name: str, tmp_path: Path) -> None:
    READERS["npy"].make(tmp_path)
    os.mkfifo(tmp_path / name)
    (skipped,) = read_source(tmp_path, "seq_head_dim").skipped
    assert "regular file" in skipped.message


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**9, "layer_types": ["full_attention"]},
        {"max_position_embeddings": 2**31 - 1},
        {"rope_theta": 10**400},
        {"rms_norm_eps": 10**400},
        {"vocab_size": 10**20},
    ],
)
def test_a_model_config_that_asks_for_a_heap_of_memory_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / READERS["model_config"].make(tmp_path)
    text = json.dumps(json.loads(path.read_text()) | values)
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=f"{next(iter(values))}|{next(reversed(values))}"):
            load_model(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_tokenizer_with_an_id_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    """The vocabulary is small enough, its ids are not; the kernels look rows up without a check."""
    path = tmp_path / READERS["tokenizer_json"].make(tmp_path)
    document = json.loads(path.read_text())
    document["model"]["vocab"]["a"] = 10_000
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"ids below 260 \(vocab_size\), got 10000"):
        Tokenizer(tmp_path, 260).encode("abc")


def test_an_object_of_many_keys_is_read_in_time_linear_in_them(tmp_path: Path) -> None:
    """100,000 tensors of an index took the square of that."""
    (tmp_path / "a.json").write_text(json.dumps({f"tensor {index}": "a" for index in range(100_000)}))
    assert len(read_json_object(tmp_path / "a.json")) == 100_000


def test_a_table_of_many_columns_is_read_in_time_linear_in_them(tmp_path: Path) -> None:
    names = ["llm_demo", "speed(tok/s)", *(f"c{index}" for index in range(100_000))]
    with pytest.raises(TableError, match="expected fewer than 65536 characters, got more"):
        parse_text(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n", "log")
    (tmp_path / "a.csv").write_text(",".join(["h2o_lossy", *names]) + "\n")
    with pytest.raises(TableError, match="at least one row"):
        load_measurements(tmp_path / "a.csv")


def test_a_pair_of_5000_digits_is_none(tmp_path: Path) -> None:
    path = tmp_path / READERS["metrics_csv"].make(tmp_path)
    header, row = path.read_text().splitlines()
    assert header.split(",")[3] == "pair"
    path.write_text(f"{header}\n" + row.replace(",1,", "," + "9" * 5000 + ",", 1) + "\n")
    (measurement,) = load_measurements(path)
    assert [record.pair for record in measurement.processes] == [None]


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "a" * 300, "a/" * 3000])
@pytest.mark.parametrize("option", ["out_dir", "packs", "prompts", "llm_bench", "history_dir"])
def test_a_path_that_is_none_is_an_error_that_names_the_option(option: str, name: str, tmp_path: Path) -> None:
    flags = {"out_dir": "--h2o-out", "packs": "--packs", "prompts": "--prompts", "llm_bench": "--llm-bench", "history_dir": "--h2o-history"}
    with pytest.raises(ConfigError, match=flags[option]):
        resolve({option: name}, {}, {}, tmp_path, tmp_path)


@pytest.mark.parametrize("option", ["threads", "decode_pairs", "prompts_per_bucket", "prompts_seed"])
def test_a_count_of_5000_digits_is_an_error_that_names_the_option(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=option.replace("_", "-")):
        resolve({option: "9" * 5000}, {}, {}, tmp_path, tmp_path)


def test_a_preset_name_too_long_for_a_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset"):
        find_file("a" * 300, tmp_path, "preset")


def test_a_word_of_a_prompt_command_that_is_no_path_stays_as_it_is(tmp_path: Path) -> None:
    words = "~nobody-of-that-name/x -m {config} {prompt_file} {prompt} {gen} {log} " + "a/" * 3000
    assert parse_prompt_command(words, "--prompt-command", tmp_path)[0] == "~nobody-of-that-name/x"


@pytest.mark.parametrize(("column", "value"), [("seconds", "x"), ("pack", None), ("settings", "[]"), ("settings", "{")])
def test_a_cell_of_the_history_that_no_run_wrote_is_told(column: str, value: object, tmp_path: Path) -> None:
    READERS["history_file"].make(tmp_path)
    with sqlite3.connect(tmp_path / HISTORY_FILE) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
    connection.close()
    with sqlite3.connect(tmp_path / HISTORY_FILE) as connection:
        connection.execute(f"UPDATE runs SET {column} = ?", (value,))  # noqa: S608
    connection.close()
    with pytest.raises(ConfigError, match="history: expected a readable SQLite file"), open_history(tmp_path / HISTORY_FILE) as history:
        history.runs()


def test_a_dataclass_of_other_types_is_told_by_its_field() -> None:
    with pytest.raises(TypeError, match=r"value: 'x' where float \| None belongs"):
        as_declared(gate(value="x"))  # type: ignore[arg-type]
    assert as_declared(gate()) == gate()
