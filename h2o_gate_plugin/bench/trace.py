"""What an engine wrote of its KV cache when asked by H2O_BENCH_TRACE, read and checked; docs/engine.md has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.outside_file import read_json

TRACE_VARIABLE = "H2O_BENCH_TRACE"
SCHEMA_VERSION = 1
LARGEST_MAP = 2**26
"""Positions over all layers, of which a picture is made: 100 MiB."""
BYTE_SERIES = ("full_bytes", "resident_bytes", "range_full_bytes", "range_resident_bytes")


Runs = tuple[tuple[int, int], ...]
"""[start, end) of kept positions, in order."""


@dataclass(frozen=True)
class KvBytes:
    """At each of ``tokens`` seen: KV bytes of all layers, and of those in H2O's range; full: 16 bits a value, nothing evicted."""

    tokens: tuple[int, ...]
    full_bytes: tuple[int, ...]
    resident_bytes: tuple[int, ...]
    range_full_bytes: tuple[int, ...]
    range_resident_bytes: tuple[int, ...]


@dataclass(frozen=True)
class InstanceTrace:
    """``agrees``: the traced pass ended with the tokens, kept positions and KV bytes of the timed ones.

    ``decode``: after the prompt and after decoded tokens; ``end``: one moment, after the turn. ``range_layers``: [first, end).

    ``kept``: by layer, runs [start, end) of kept positions; None where the engine left them out. ``kl_by_position``: by policy (``kv``,
    ``random``, ``window``) nats at each token of the continuation, None where one is no number; the whole None where not measured.
    """

    prompt_tokens: int
    gen_tokens: int
    agrees: bool
    range_layers: tuple[int, int]
    decode: KvBytes
    end: KvBytes
    kept: tuple[Runs | None, ...]
    kl_by_position: Mapping[str, tuple[float | None, ...]] | None

    @property
    def seen_tokens(self) -> int:
        return self.prompt_tokens + self.gen_tokens


def read_trace(path: Path) -> tuple[InstanceTrace, ...]:
    """Raises ConfigError for a file that is not there, or not what the schema says."""
    try:
        document = read_json(path)
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {document['schema_version']!r}")
        return tuple(_instance(instance) for instance in document["instances"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path}: trace: expected schema {SCHEMA_VERSION} of docs/engine.md, got {err!r}; measure again") from err


def _instance(document: Mapping[str, Any]) -> InstanceTrace:
    first, end = map(_count, document["range_layers"])
    kept = tuple(None if runs is None else _runs(runs) for runs in document["kept"])
    if len(kept) * (_count(document["prompt_tokens"]) + _count(document["gen_tokens"])) > LARGEST_MAP:
        raise ValueError(f"more than {LARGEST_MAP} kept positions over all layers")
    if any(runs and runs[-1][1] > _count(document["prompt_tokens"]) + _count(document["gen_tokens"]) for runs in kept):
        raise ValueError("kept positions beyond the last token")
    agrees, by_position = document["agrees"], document["kl_by_position"]
    if not isinstance(agrees, bool):
        raise ValueError(f"agrees {agrees!r}")
    return InstanceTrace(
        prompt_tokens=_count(document["prompt_tokens"]),
        gen_tokens=_count(document["gen_tokens"]),
        agrees=agrees,
        range_layers=(first, end),
        decode=_kv_bytes(document["decode"]),
        end=_kv_bytes({name: [value] for name, value in document["end"].items()}),
        kept=kept,
        kl_by_position=None if by_position is None else {str(name): _nats(values) for name, values in by_position.items()},
    )


def _kv_bytes(document: Mapping[str, Any]) -> KvBytes:
    series = {name: tuple(map(_count, document[name])) for name in ("tokens", *BYTE_SERIES)}
    if len({len(values) for values in series.values()}) != 1 or not series["tokens"]:
        raise ValueError("series that are empty or of different lengths")
    return KvBytes(**series)


def _runs(document: Any) -> Runs:
    runs = tuple((_count(start), _count(end)) for start, end in document)
    ends = [0, *(end for _, end in runs)]
    if any(not before <= start < end for before, (start, end) in zip(ends, runs, strict=False)):
        raise ValueError("runs of kept positions out of order")
    return runs


def _nats(values: Any) -> tuple[float | None, ...]:
    return tuple(None if value is None else float(value) for value in values)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError(f"{str(value)[:80]} where a count belongs")
    return value
