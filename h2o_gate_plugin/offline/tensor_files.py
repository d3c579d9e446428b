"""Tensors in .npy and .safetensors files: where they lie and what they hold, from the headers alone, and their words, one at a time.

Nothing is unpickled, and nothing is allocated by a size that a header declares before it was compared with the file's.
"""

from __future__ import annotations

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
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):  # later ones are for long headers: records, not arrays of numbers
                raise ValueError("a format version other than 1.0")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            start_byte = file.tell()
        n_bytes = prod(shape) * dtype.itemsize
        if dtype.hasobject or path.stat().st_size - start_byte < n_bytes:
            raise ValueError("pickled objects" if dtype.hasobject else f"less than {n_bytes} bytes behind its header")
    except (ValueError, OSError) as err:
        raise EntryError("bad_npy", f"{path}: file: expected a whole .npy array of numbers, got {_one_line(err)!r}; save it again") from err
    return TensorPlace(path, path.stem, _NPY.get(dtype.str, dtype.str), shape, start_byte, fortran_order)


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
