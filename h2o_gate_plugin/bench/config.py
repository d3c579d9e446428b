"""Write the config.json of one run: the model side of a base config with this run's ``kv_`` values.

Source: the llm_bench contract ("config.json"). The engine concatenates ``base_dir + value``, so base_dir is absolute and
ends in ``/`` and file names are relative to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.files import write_atomic
from h2o_gate_plugin.kv_options import KvValue, check_kv_values
from h2o_gate_plugin.outside_file import read_json

FILE_KEYS = ("llm_config", "llm_model", "llm_weight", "embedding_file", "tokenizer_file", "context_file")

KV_OFF: Mapping[str, KvValue] = {"kv_h2o_enable": False, "kv_lossless_enable": False, "kv_lossless_runtime_enable": False}
"""What turns a candidate's values into its baseline's: the same code path, KV features off."""


def read_base_config(path: Path) -> dict[str, Any]:
    """The base config's object. Raises ConfigError: unreadable, not JSON, not an object."""
    try:
        config = read_json(path)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: model config: expected a readable JSON file, got {err}; check the path") from err
    except ValueError as err:
        raise ConfigError(f"{path}: model config: expected JSON, got {err}; repair the file") from err
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: model config: expected a JSON object, got {type(config).__name__}; repair the file")
    return config


def write_config(base_config: Path, values: Mapping[str, KvValue], out_path: Path) -> None:
    """Write ``out_path``; ``values`` replace whatever ``kv_`` keys the base config has.

    Raises ConfigError for a bad base config, a base_dir or file name that is no text, and a value of the wrong type.
    """
    config = read_base_config(base_config)
    base_dir = _base_dir(config.get("base_dir", ""), base_config)
    for key in FILE_KEYS:
        if key in config:
            config[key] = _relative_name(config[key], base_dir, f"{base_config}: {key}")
    config["base_dir"] = f"{base_dir.rstrip('/')}/"
    config.update(check_kv_values(values, str(out_path)))
    write_atomic(out_path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _base_dir(value: Any, base_config: Path) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{base_config}: base_dir: expected the model's folder as text, got {value!r}; correct it")
    return os.path.abspath(base_config.parent / value)


def _relative_name(value: Any, base_dir: str, place: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{place}: expected a file name, got {value!r}; correct it")
    return os.path.relpath(value, base_dir) if os.path.isabs(value) else value
