"""The bench config.json that ``llm_bench -m`` names: where the model lies, and the ``kv_`` keys.

Source: the llm_bench contract ("config.json").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KvValue, engine_values
from h2o_gate_plugin.runtime.json_object import read_json_object


@dataclass(frozen=True)
class BenchConfig:
    """``kv_values`` holds every ``kv_`` key, engine defaults filled in."""

    path: Path
    model_folder: Path
    kv_values: Mapping[str, KvValue]


def read_bench_config(path: Path) -> BenchConfig:
    """Read and check a bench config.

    ``base_dir`` is relative to the config's own folder when relative, and that folder when absent. Model-side keys that this
    engine has no use for (llm_model, llm_weight, ...) are accepted. Raises ConfigError for JSON that does not parse, an
    unknown ``kv_`` key or word, a value of the wrong type, or a base_dir that is no folder.
    """
    raw = read_json_object(path)
    base_dir = raw.get("base_dir", ".")
    if not isinstance(base_dir, str) or not base_dir:
        raise ConfigError(f"{path}: base_dir: expected the model folder as a string, got {base_dir!r}")
    try:
        folder = (path.parent / base_dir).resolve()
        found = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as err:  # too long, a circle of links, no name at all
        raise ConfigError(f"{path}: base_dir: expected an existing model folder, got {base_dir!r:.200}: {err}") from err
    if not found:
        raise ConfigError(f"{path}: base_dir: expected an existing model folder, got {base_dir!r} (that is {folder})")
    kv_values = engine_values({key: value for key, value in raw.items() if key.startswith("kv_")}, str(path))
    return BenchConfig(path=path, model_folder=folder, kv_values=kv_values)
