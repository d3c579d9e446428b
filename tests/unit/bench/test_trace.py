"""Traces of any engine: what the schema allows is read, everything else is refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.trace import read_trace
from h2o_gate_plugin.errors import ConfigError

SERIES: dict[str, Any] = {
    "tokens": [8, 9],
    "full_bytes": [800, 900],
    "resident_bytes": [500, 510],
    "range_full_bytes": [400, 450],
    "range_resident_bytes": [100, 110],
}
INSTANCE: dict[str, Any] = {
    "prompt_tokens": 8,
    "gen_tokens": 1,
    "agrees": True,
    "range_layers": [1, 3],
    "decode": SERIES,
    "end": {name: values[-1] for name, values in SERIES.items()},
    "kept": [[[0, 9]], [[0, 2], [5, 9]], None],
    "kl_by_position": {"kv": [0.25, None]},
}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"schema_version": 1, "instances": [INSTANCE | changes]}), encoding="utf-8")
    return path


def test_a_trace_is_read_as_values(tmp_path: Path) -> None:
    (trace,) = read_trace(write(tmp_path / "trace.json"))
    assert (trace.prompt_tokens, trace.gen_tokens, trace.seen_tokens, trace.range_layers) == (8, 1, 9, (1, 3))
    assert trace.decode.range_resident_bytes == (100, 110)
    assert trace.end.tokens == (9,)
    assert trace.kept == (((0, 9),), ((0, 2), (5, 9)), None)
    assert trace.kl_by_position == {"kv": (0.25, None)}


def test_quality_that_was_not_measured_is_none(tmp_path: Path) -> None:
    (trace,) = read_trace(write(tmp_path / "trace.json", kl_by_position=None))
    assert trace.kl_by_position is None


@pytest.mark.parametrize(
    "changes",
    [
        {"decode": SERIES | {"tokens": [8]}},
        {"decode": dict.fromkeys(SERIES, ())},
        {"decode": SERIES | {"tokens": [8, -1]}},
        {"decode": SERIES | {"full_bytes": [800, 9.5]}},
        {"kept": [[[5, 5]]]},
        {"kept": [[[5, 9], [0, 2]]]},
        {"kept": [[[0, 2, 3]]]},
        {"range_layers": [1]},
        {"kl_by_position": {"kv": ["<script>"]}},
        {"prompt_tokens": True},
        {"agrees": 1},
        {"end": {}},
    ],
)
def test_what_the_schema_does_not_allow_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"trace\.json: trace: expected schema 1 of docs/engine\.md, got") as refused:
        read_trace(write(tmp_path / "trace.json", **copy.deepcopy(changes)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 2, "instances": []}', '{"schema_version": 1}', "\xff"])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="trace: expected schema 1"):
        read_trace(path)
    with pytest.raises(ConfigError, match="trace: expected schema 1"):
        read_trace(tmp_path / "missing.json")
