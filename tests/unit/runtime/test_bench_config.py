from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KV_OPTIONS
from h2o_gate_plugin.runtime.bench_config import read_bench_config


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_base_dir_is_relative_to_the_folder_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    path = write(tmp_path / "configs" / "a.json", {"base_dir": "../models/x/", "llm_model": "llm.mnn", "thread_num": 4})
    assert read_bench_config(path).model_folder == (tmp_path / "models" / "x").resolve()
    path = write(tmp_path / "models" / "x" / "a.json", {})
    assert read_bench_config(path).model_folder == (tmp_path / "models" / "x").resolve()


def test_an_absolute_base_dir_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = write(tmp_path / "configs" / "a.json", {"base_dir": f"{tmp_path}/model/"})
    assert read_bench_config(path).model_folder == (tmp_path / "model").resolve()


def test_every_kv_key_is_there_with_engine_defaults(tmp_path: Path) -> None:
    values = read_bench_config(write(tmp_path / "a.json", {"kv_h2o_enable": True, "kv_h2o_target_lossy_ratio": 4})).kv_values
    assert set(values) == set(KV_OPTIONS)
    assert (values["kv_h2o_enable"], values["kv_h2o_target_lossy_ratio"], values["kv_h2o_recent_tokens"]) == (True, 4.0, 256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json:1: JSON: expected a valid document"),
        ("[]", "expected an object, got list"),
        ('{"kv_h2o_enable": true, "kv_h2o_enable": false}', "kv_h2o_enable: expected once"),
        ({"kv_h2o_enabel": True}, r"kv_h2o_enabel: unknown key, did you mean 'kv_h2o_enable'\?"),
        ({"kv_h2o_enable": 1}, "kv_h2o_enable: expected true or false, got 1"),
        ({"kv_h2o_block_tokens": 32.0}, "kv_h2o_block_tokens: expected an integer >= 1, got 32.0"),
        ({"kv_lossless_scope": "front"}, "kv_lossless_scope: expected one of"),
        ({"base_dir": 3}, "base_dir: expected the model folder"),
        ({"base_dir": "nowhere/"}, "base_dir: expected an existing model folder, got 'nowhere/'"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_bench_config(write(tmp_path / "a.json", content))
    assert "\n" not in str(caught.value)
    assert "a.json" in str(caught.value)


def test_a_config_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_bench_config(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        read_bench_config(tmp_path / "b.json")
