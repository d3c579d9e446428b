from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.runtime.weights import find_weights, read_header, read_matrix, read_vector, same_values, widened

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
Tensor = tuple[str, NDArray[Any]]
"""A safetensors dtype, and the array whose bytes are stored under it."""


def write_file(path: Path, *tensors: tuple[str, Tensor]) -> None:
    """A safetensors file byte by byte: names may repeat, and bfloat16 needs no library."""
    entries, data = [], b""
    for name, (dtype, values) in tensors:
        stored = values.tobytes()
        entry = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        entries.append(f"{json.dumps(name)}:{json.dumps(entry)}")
        data += stored
    header = ("{" + ",".join(['"__metadata__":{"format":"pt"}', *entries]) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def rows(*values: float) -> Tensor:
    """fp16 [n, 1]"""
    return "F16", np.array(values, np.float16)[:, None]


def write_shards(folder: Path, weight_map: dict[str, Any] | None = None) -> Path:
    write_file(folder / ONE, ("a", rows(1.0)), ("b", rows(2.0)))
    write_file(folder / TWO, ("c", rows(3.0)))
    index = {"metadata": {"total_size": 6}, "weight_map": {"a": ONE, "b": ONE, "c": TWO} if weight_map is None else weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_every_bfloat16_word_widens_to_its_exact_float32() -> None:
    words = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    wide = widened(words.view(np.int16))
    assert wide.dtype == np.float32
    assert wide.tobytes() == b"".join(b"\0\0" + struct.pack("<H", word) for word in words.tolist())


def test_matrices_keep_their_words_and_vectors_become_float32(tmp_path: Path) -> None:
    half, single = np.array([[1.5, -2.0]], np.float16), np.array([[3.25, 1e-30]], np.float32)
    brain = np.array([[0x3FC0, 0xC049]], np.uint16)  # 1.5 and -3.140625
    write_file(tmp_path / "model.safetensors", ("h", ("F16", half)), ("s", ("F32", single)), ("b", ("BF16", brain)))
    stored = find_weights(tmp_path).tensors
    for name, word, words in (("h", np.uint16, half), ("s", np.float32, single), ("b", np.int16, brain)):
        matrix = read_matrix([stored[name], stored[name]])
        assert matrix.dtype == word
        assert matrix.tobytes() == 2 * words.tobytes()
        assert matrix.flags.writeable
        assert not isinstance(matrix, np.memmap)
    assert np.array_equal(widened(read_matrix([stored["b"]])), [[1.5, -3.140625]])


def test_joined_tensors_of_different_dtypes_become_float32(tmp_path: Path) -> None:
    pad = ("I8", np.array([7], np.int8))  # what follows starts at an odd byte
    brain = ("BF16", np.array([[0x3FC0]], np.uint16))
    path = tmp_path / "model.safetensors"
    write_file(path, ("pad", pad), ("h", rows(2.0, -0.5)), ("b", brain), ("s", ("F32", np.array([[0.1]], np.float32))))
    stored = read_header(path)
    joined = read_matrix([stored["h"], stored["b"], stored["s"]])
    assert joined.dtype == np.float32
    assert np.array_equal(joined[:, 0], np.array([2.0, -0.5, 1.5, 0.1], np.float32))
    write_file(path, ("h", ("F16", np.array([2.0], np.float16))), ("b", ("BF16", np.array([0x3FC0], np.uint16))))
    stored = read_header(path)
    vector = read_vector([stored["h"], stored["b"]])
    assert vector.dtype == np.float32
    assert np.array_equal(vector, [2.0, 1.5])


def test_same_values_looks_at_numbers_and_at_every_block(tmp_path: Path) -> None:
    path, values = tmp_path / "model.safetensors", np.arange(10, dtype=np.float16)[:, None]
    other = values.copy()
    other[9] = -1
    write_file(path, ("a", ("F16", values)), ("b", ("F32", values.astype(np.float32))), ("c", ("F16", other)), ("d", ("F16", values[:9])))
    stored = read_header(path)
    assert same_values(stored["a"], stored["b"], block_rows=4)
    assert not same_values(stored["a"], stored["c"], block_rows=4)
    assert not same_values(stored["a"], stored["d"], block_rows=4)


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    stored = find_weights(write_shards(tmp_path))
    assert stored.listing == tmp_path / INDEX
    assert {name: float(widened(read_matrix([tensor]))[0, 0]) for name, tensor in stored.tensors.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert stored.file_bytes == sum((tmp_path / shard).stat().st_size for shard in (ONE, TWO))


def test_an_index_may_name_the_one_file(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", ("a", rows(1.0)))
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "model.safetensors"}}', encoding="utf-8")
    assert set(find_weights(tmp_path).tensors) == {"a"}


def test_one_file_beside_an_index_that_does_not_name_it_is_refused(tmp_path: Path) -> None:
    write_file(write_shards(tmp_path) / "model.safetensors", ("a", rows(1.0)))
    with pytest.raises(ConfigError, match=r"model\.safetensors: file: expected either this file or .*index\.json, got both; remove"):
        find_weights(tmp_path)


@pytest.mark.parametrize("weight_map", [{}, ["a"], "model.safetensors", 3])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, weight_map: Any) -> None:
    with pytest.raises(ConfigError, match=r"index\.json: weight_map: expected an object"):
        find_weights(write_shards(tmp_path, weight_map))


@pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\\b", "a\0b", 3, None])
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, shard: Any) -> None:
    with pytest.raises(ConfigError, match=r"weight_map\.c: expected the plain name of a file in this folder, got "):
        find_weights(write_shards(tmp_path, {"a": ONE, "b": ONE, "c": shard}))


@pytest.mark.parametrize("shard", ["model-00003-of-00003.safetensors", 300 * "x"])
def test_a_missing_shard_is_named(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ConfigError, match=rf"index\.json: weight_map: expected the shard '{shard}' beside it, got no such file; copy"):
        find_weights(write_shards(tmp_path, {"a": ONE, "b": ONE, "c": shard}))


def test_a_tensor_that_the_shard_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{TWO}: d: expected this tensor by {INDEX}, got none; export"):
        find_weights(write_shards(tmp_path, {"a": ONE, "b": ONE, "c": TWO, "d": TWO}))


def test_a_tensor_that_the_index_does_not_name_or_puts_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{ONE}: b: expected no such tensor \(it lies nowhere by {INDEX}\), got one"):
        find_weights(write_shards(tmp_path, {"a": ONE, "c": TWO}))
    write_shards(tmp_path)
    write_file(tmp_path / TWO, ("c", rows(3.0)), ("a", rows(4.0)))
    with pytest.raises(ConfigError, match=rf"{TWO}: a: expected no such tensor \(it lies in '{ONE}' by {INDEX}\), got one"):
        find_weights(tmp_path)


def test_a_name_that_stands_twice_is_refused_in_the_index_and_in_a_header(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / INDEX).write_text(f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"index\.json: a: expected once"):
        find_weights(tmp_path)
    path = tmp_path / "twice.safetensors"
    entry = '{"dtype":"F16","shape":[1],"data_offsets":[0,2]}'
    header = f'{{"a":{entry},"a":{entry}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(ConfigError, match=r"twice\.safetensors: a: expected once, got it twice in the header"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    write_file(path, ("a", rows(1.0, 2.0)))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"model\.safetensors: file: expected safetensors, got .*; copy or export"):
        find_weights(tmp_path)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path) / TWO
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"{TWO}: file: expected safetensors"):
        find_weights(tmp_path)


def test_a_folder_without_safetensors_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got neither; copy or export the weights"):
        find_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"got neither, but pytorch_model\.bin; save the model again with safe_serialization=True"):
        find_weights(tmp_path)
