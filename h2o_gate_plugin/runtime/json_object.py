"""Read a JSON file that must hold one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError


def read_json_object(path: Path) -> dict[str, Any]:
    """Read one JSON object; a repeated key is refused. Raises ConfigError naming the file and the line."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, _ in pairs:
            if sum(key == other for other, _ in pairs) > 1:
                raise ConfigError(f"{path}: {key}: expected once, got it several times; remove all but one")
        return dict(pairs)

    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as err:
        raise ConfigError(f"{path}: file: expected a readable file, got {err.strerror}; check the path") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: file: expected UTF-8 text, got {err.reason} at byte {err.start}") from err
    except json.JSONDecodeError as err:
        raise ConfigError(f"{path}:{err.lineno}: JSON: expected a valid document, got {err.msg} at column {err.colno}") from err
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: JSON: expected an object, got {type(raw).__name__}")
    return raw
