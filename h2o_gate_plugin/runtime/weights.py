"""The tensors of a Hugging Face folder: which files hold them, and their exact values, one tensor at a time."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.json_object import read_json_object
from h2o_gate_plugin.runtime.kernels import Matrix
from h2o_gate_plugin.runtime.ops import F32

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

WORDS: Mapping[str, str] = {"F16": "<u2", "BF16": "<i2", "F32": "<f4"}
"""The safetensors dtypes that are read, and the numpy dtype they travel in (see ``jit``: uint16 is fp16, int16 is bf16)."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: ``start_byte`` counts from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start_byte: int


@dataclass(frozen=True)
class StoredWeights:
    """Every tensor of a folder by name; ``listing`` is the file that says which there are."""

    listing: Path
    tensors: Mapping[str, StoredTensor]
    file_bytes: int


def find_weights(folder: Path) -> StoredWeights:
    """Read the headers of model.safetensors, or of the shards that model.safetensors.index.json names.

    Raises ConfigError for a missing, unreadable or corrupt file, both kinds at once, a shard outside the folder, a tensor that
    stands twice, or an index that does not say what the shards hold.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if not index.exists():
        if not single.exists():
            raise ConfigError(f"{single}: file: expected the weights, or {INDEX_FILE} and its shards, got neither{_pickled(folder)}")
        return StoredWeights(single, read_header(single), _size(single))
    weight_map = _read_index(index)
    shards = sorted(set(weight_map.values()))
    if single.exists() and WEIGHTS_FILE not in shards:
        raise ConfigError(f"{single}: file: expected either this file or {INDEX_FILE}, got both; remove the one that is out of date")
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if not os.path.isfile(folder / shard):  # False for a name too long, where Path raises
            raise ConfigError(f"{index}: weight_map: expected the shard {shard!r} beside it, got no such file; copy it or export again")
        named = {name for name, file in weight_map.items() if file == shard}
        found = read_header(folder / shard)
        for name in sorted(found.keys() - named):
            elsewhere = f"it lies in {weight_map[name]!r}" if name in weight_map else "it lies nowhere"
            raise ConfigError(f"{folder / shard}: {name}: expected no such tensor ({elsewhere} by {INDEX_FILE}), got one")
        for name in sorted(named - found.keys()):
            raise ConfigError(f"{folder / shard}: {name}: expected this tensor by {INDEX_FILE}, got none; export the weights again")
        tensors |= found
    return StoredWeights(index, tensors, sum(_size(folder / shard) for shard in shards))


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, nothing but its header read. Raises ConfigError."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")
        with safe_open(str(path), framework="numpy"):  # checks lengths, offsets and gaps
            pass
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes), object_pairs_hook=lambda pairs: _unique(pairs, path))
    except OSError as err:
        raise ConfigError(f"{path}: file: expected a readable safetensors file, got {err}") from err
    except SafetensorError as err:
        raise ConfigError(f"{path}: file: expected safetensors, got {err}; copy or export the weights again") from err
    return {
        name: StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_matrix(parts: Sequence[StoredTensor]) -> Matrix:
    """Matrices of equal width below each other, [sum of rows, in]: words as stored, float32 where the parts' dtypes differ."""
    one_dtype = len({part.dtype for part in parts}) == 1
    word = np.dtype(WORDS[parts[0].dtype] if one_dtype else np.float32).newbyteorder("=")
    joined = np.empty((sum(part.shape[0] for part in parts), parts[0].shape[1]), dtype=word)
    start = 0
    for part in parts:
        words = _map(part)
        joined[start : start + len(words)] = words if one_dtype else widened(words)
        start += len(words)
    return joined


def read_vector(parts: Iterable[StoredTensor]) -> F32:
    """Vectors behind each other, as float32."""
    return np.concatenate([widened(_map(part)) for part in parts])


def widened(words: Matrix) -> F32:
    """The exact float32 of fp16 words (uint16), bf16 words (int16) or float32; always a copy."""
    if words.dtype.kind == "i":
        image: F32 = np.left_shift(words.view("<u2"), 16, dtype=np.uint32).view(np.float32)
        return image
    return (words.view("<f2") if words.dtype.kind == "u" else words).astype(np.float32)


def same_values(one: StoredTensor, other: StoredTensor, block_rows: int = 4096) -> bool:
    """Whether two matrices hold the same numbers, whatever their dtypes."""
    left, right = _map(one), _map(other)
    starts = range(0, len(left), block_rows)
    return left.shape == right.shape and all(
        np.array_equal(widened(left[start : start + block_rows]), widened(right[start : start + block_rows])) for start in starts
    )


def _map(tensor: StoredTensor) -> Matrix:
    return np.memmap(tensor.path, dtype=WORDS[tensor.dtype], mode="r", offset=tensor.start_byte, shape=tensor.shape)


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index}: weight_map: expected an object from tensor names to file names, got {weight_map!r}")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise ConfigError(f"{index}: weight_map.{name}: expected the plain name of a file in this folder, got {shard!r}")
    return weight_map


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise ConfigError(f"{path}: {name}: expected once, got it twice in the header; export the weights again")
        unique[name] = value
    return unique


def _pickled(folder: Path) -> str:
    found = sorted(folder.glob("pytorch_model*.bin"))
    return f", but {found[0].name}; save the model again with safe_serialization=True" if found else "; copy or export the weights"


def _size(path: Path) -> int:
    return path.stat().st_size
