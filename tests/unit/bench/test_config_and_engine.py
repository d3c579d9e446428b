"""The generated config.json and the choice of the engine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.config import write_config
from h2o_gate_plugin.bench.engine import embedded_engine, engine_argv, external_engine
from h2o_gate_plugin.bench.preset import BenchConfig
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import suite_values


def base(tmp_path: Path, text: str) -> Path:
    (tmp_path / "model").mkdir(exist_ok=True)
    path = tmp_path / "model" / "config.json"
    path.write_text(text)
    return path


def written(tmp_path: Path, model_side: dict[str, object]) -> dict[str, object]:
    out = tmp_path / "out.json"
    write_config(base(tmp_path, json.dumps(model_side)), suite_values({}, "test"), out)
    loaded: dict[str, object] = json.loads(out.read_text())
    return loaded


@pytest.mark.parametrize(("base_dir", "expected"), [(None, "model"), ("", "model"), (".", "model"), ("../weights/", "weights")])
def test_base_dir_becomes_absolute_and_ends_in_a_slash(tmp_path: Path, base_dir: str | None, expected: str) -> None:
    config = written(tmp_path, {} if base_dir is None else {"base_dir": base_dir})
    assert config["base_dir"] == f"{tmp_path / expected}/"


def test_an_absolute_base_dir_stays(tmp_path: Path) -> None:
    assert written(tmp_path, {"base_dir": "/models/qwen"})["base_dir"] == "/models/qwen/"


def test_file_names_become_relative_to_base_dir(tmp_path: Path) -> None:
    config = written(tmp_path, {"llm_model": str(tmp_path / "elsewhere" / "llm.mnn"), "llm_weight": "w.bin"})
    assert config["llm_model"] == "../elsewhere/llm.mnn"
    assert config["llm_weight"] == "w.bin"


def test_kv_keys_of_the_base_are_replaced_and_the_model_side_is_kept(tmp_path: Path) -> None:
    config = written(tmp_path, {"kv_h2o_enable": 1, "thread_num": 4, "scenario": "s.json"})
    assert config["kv_h2o_enable"] is True
    assert (config["thread_num"], config["scenario"]) == (4, "s.json")
    assert {key for key in config if key.startswith("kv_")} == set(suite_values({}, "test"))


def test_number_types_are_what_a_strict_reader_wants(tmp_path: Path) -> None:
    text = json.dumps(written(tmp_path, {}))
    assert '"kv_h2o_block_tokens": 32,' in text
    assert '"kv_h2o_ema_alpha": 0.9,' in text
    assert '"kv_h2o_enable": true,' in text


def test_a_value_of_the_wrong_type_is_not_written(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(ConfigError, match="kv_h2o_block_tokens: expected an integer"):
        write_config(base(tmp_path, "{}"), {"kv_h2o_block_tokens": 32.0}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object, got list"),
        ("[" * 100_000, "expected JSON"),
        ('{"base_dir": 3}', "base_dir: expected the model's folder as text, got 3"),
        ('{"llm_model": 3}', "llm_model: expected a file name, got 3"),
    ],
)
def test_a_bad_base_config_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"model/config\.json: .*{message}") as caught:
        write_config(base(tmp_path, text), {}, tmp_path / "out.json")
    assert "\n" not in str(caught.value)


def test_the_embedded_engine_is_started_by_argv(tmp_path: Path) -> None:
    engine = embedded_engine(base(tmp_path, "{}"))
    assert engine.argv == (sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench")
    assert engine.name == "embedded"
    assert engine.sha256 is not None
    assert engine.sha256 == embedded_engine(base(tmp_path, "{}")).sha256


def test_the_call_is_the_contracts_line(tmp_path: Path) -> None:
    engine = embedded_engine(base(tmp_path, "{}"))
    config = BenchConfig("run_0001", 512, 128, 5, "cpu", 4, 0, {})
    line = " ".join(engine_argv(engine, config, Path("CONFIG"), Path("LOG"))[3:])
    assert line == "-m CONFIG -a cpu -t 4 -qatten 0 -kv true -p 512 -n 128 -rep 5 -fp LOG"


def test_an_external_engine_must_be_there_and_executable_with_a_json_config(tmp_path: Path) -> None:
    config = base(tmp_path, "{}")
    binary = tmp_path / "llm_bench"
    with pytest.raises(ConfigError, match=r"llm_bench: llm_bench: expected an executable file, got no such file"):
        external_engine(binary, config)
    with pytest.raises(ConfigError, match="expected an executable file, got a folder"):
        external_engine(tmp_path, config)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="expected an executable file, got no regular file"):
        external_engine(tmp_path / "pipe", config)
    with pytest.raises(ConfigError, match=r"^'caf\\udce9': llm_bench: expected a path in UTF-8, which reports are written in; rename it$"):
        external_engine(os.fsdecode(b"caf\xe9"), config)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o644)
    with pytest.raises(ConfigError, match="without the x bit"):
        external_engine(binary, config)
    binary.chmod(0o755)
    with pytest.raises(ConfigError, match="model config: expected a readable JSON file"):
        external_engine(binary, tmp_path / "absent.json")
    engine = external_engine(binary, config)
    assert (engine.name, engine.argv) == (str(binary), (str(binary),))
