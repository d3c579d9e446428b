"""Read a JSON file that must hold one object."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import read_text, refuse_deep


def read_json_object(path: Path) -> dict[str, Any]:
    """Read one JSON object; a repeated key is refused. Raises ConfigError naming the file and the line."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ConfigError(f"{path}: {key}: expected once, got it several times; remove all but one")
        return found

    try:
        text = read_text(path)
        refuse_deep(text)
        raw = json.loads(text, object_pairs_hook=unique)
    except OSError as err:
        raise ConfigError(f"{path}: file: expected a readable file, got {err.strerror or err}; check the path") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: file: expected UTF-8 text, got {err.reason} at byte {err.start}") from err
    except json.JSONDecodeError as err:
        raise ConfigError(f"{path}:{err.lineno}: JSON: expected a valid document, got {err.msg} at column {err.colno}") from err
    except ValueError as err:
        raise ConfigError(f"{path}: JSON: expected a valid document, got {err}") from err
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: JSON: expected an object, got {type(raw).__name__}")
    return raw
