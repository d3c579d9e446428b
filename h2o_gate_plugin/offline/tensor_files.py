"""Tensors in .npy and .safetensors files: where they lie and what they hold, from the headers alone, and their words, one at a time.

Nothing is unpickled, and nothing is allocated by a size that a header declares before it was compared with the file's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.dump import EntryError, rounded_to_fp16
from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.offline.settings import Layout
from h2o_gate_plugin.runtime.weights import read_header

_NUMPY: dict[str, str] = {"fp16": "<u2", "bf16": "<u2", "fp32": "<f4"}
_NPY: dict[str, str] = {"<f2": "fp16", "<f4": "fp32", "<u2": "words", "|V2": "words", "<V2": "words"}
"""What numpy calls them; V2 is how it saves a bfloat16 that it has no name for."""
_ELEMENT_BYTES: dict[str, int] = {"fp16": 2, "fp32": 4, "words": 2}
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{\s*'descr':\s*'(?P<descr>[<>|=]?[A-Za-z]\d{0,4})',\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>(?:\d{1,18}\s*,\s*)*(?:\d{1,18}\s*)?)\),?\s*\}\s*"
)
"""As numpy.save and its likes write it. Format 1.0 is Python source; this is no place to evaluate any."""
_SAFETENSORS: dict[str, str] = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a file: ``name`` in a safetensors file, the stem of a .npy file. ``dtype``: fp16, bf16, fp32, ``words`` (16-bit words
    whose format the file does not say), or the file's own word for anything else.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start_byte: int
    fortran_order: bool

    @property
    def label(self) -> str:
        return str(self.path) if self.path.suffix == ".npy" else f"{self.path}: {self.name}"


def read_places(path: Path) -> tuple[TensorPlace, ...]:
    """The tensors of the file. Raises EntryError ``bad_npy`` or ``bad_safetensors``: the file is not what its name says."""
    return (_npy_place(path),) if path.suffix == ".npy" else _safetensors_places(path)


def token_shape(place: TensorPlace, layout: Layout) -> tuple[int, int, int]:
    """(tokens, heads, channels). Raises EntryError ``unsupported_shape``."""
    shape = place.shape[1:] if len(place.shape) == 4 and place.shape[0] == 1 else place.shape
    if len(shape) != 3 or min(shape) < 1:
        order = "[1, heads, tokens, channels] or [heads, tokens, channels]" if layout == "head_seq_dim" else "[tokens, heads, channels]"
        raise EntryError(
            "unsupported_shape", f"{place.label}: shape: expected {order} ({layout}), got {place.shape}; save one sequence per tensor"
        )
    return (shape[1], shape[0], shape[2]) if layout == "head_seq_dim" else (shape[0], shape[1], shape[2])


def read_words(place: TensorPlace, dtype: str, layout: Layout, strict_fp16: bool) -> U16:
    """16-bit words u16 ``[tokens, heads, channels]``; ``dtype``: fp16, bf16 or fp32, which is rounded to fp16.

    Raises EntryError: ``missing_file``, ``unreadable_file``, ``size_mismatch``, ``not_fp16``, ``fp16_overflow``.
    """
    if dtype == "fp32" and strict_fp16:
        raise EntryError(
            "not_fp16", f"{place.label}: dtype: expected fp16, got fp32 under strict fp16; leave --strict-fp16 out to round it"
        )
    stored = np.dtype(_NUMPY[dtype])
    count = prod(place.shape)
    try:
        if place.path.stat().st_size < place.start_byte + count * stored.itemsize:
            raise EntryError("size_mismatch", f"{place.label}: size: expected {count} elements, got fewer; it changed since it was listed")
        flat = np.fromfile(place.path, dtype=stored, count=count, offset=place.start_byte)
    except FileNotFoundError as err:
        raise EntryError("missing_file", f"{place.label}: file: expected {count} elements, got no file; export it again") from err
    except OSError as err:
        got = repr(err.strerror or str(err))
        raise EntryError("unreadable_file", f"{place.label}: file: expected a readable file, got {got}; check its permissions") from err
    shape = place.shape[-3:]
    tensor = flat.reshape(shape, order="F" if place.fortran_order else "C")
    tensor = np.ascontiguousarray(tensor.transpose(1, 0, 2) if layout == "head_seq_dim" else tensor)
    return rounded_to_fp16(tensor, place.path) if dtype == "fp32" else tensor.view(np.uint16)


def _npy_place(path: Path) -> TensorPlace:
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "no regular file")
        with path.open("rb") as file:
            magic, n_header = file.read(8), int.from_bytes(file.read(2), "little")
            header = _NPY_HEADER.fullmatch(file.read(n_header))
            start_byte = file.tell()
        size = path.stat().st_size
    except OSError as err:
        raise EntryError("bad_npy", f"{path}: file: expected a readable .npy file, got {err.strerror!r}; check it") from err
    if magic != _NPY_MAGIC or header is None:
        got = f"{magic!r} and a header that numpy.save writes for no array of numbers" if magic == _NPY_MAGIC else repr(magic)
        raise EntryError("bad_npy", f"{path}: file: expected .npy format 1.0, got {got}; save it again with numpy.save")
    shape = tuple(int(word) for word in header["shape"].split(b",") if word.strip())
    dtype = _NPY.get(header["descr"].decode(), header["descr"].decode())
    if dtype in _ELEMENT_BYTES and size - start_byte < prod(shape) * _ELEMENT_BYTES[dtype]:
        expected = f"{prod(shape) * _ELEMENT_BYTES[dtype]} bytes for {shape}"
        raise EntryError("bad_npy", f"{path}: size: expected {expected}, got {size - start_byte}; the file is cut off: save it again")
    return TensorPlace(path, path.stem, dtype, shape, start_byte, header["fortran"] == b"True")


def _safetensors_places(path: Path) -> tuple[TensorPlace, ...]:
    try:
        header = read_header(path)
    except ConfigError as err:
        raise EntryError("bad_safetensors", _one_line(err)) from err
    return tuple(
        TensorPlace(path, name, _SAFETENSORS.get(stored.dtype, stored.dtype), stored.shape, stored.start_byte, False)
        for name, stored in sorted(header.items())
    )


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())
