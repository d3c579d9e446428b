"""The 16-bit words that K and V are kept in, fp16 or bf16, and their exact float32 image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import EngineError
from h2o_gate_plugin.jit import kernel, narrow, widen
from h2o_gate_plugin.kv_options import KvDtype

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]
Typed = npt.NDArray[Any]
"""Words as a kernel takes them: uint16 for fp16, int16 for bf16."""

LARGEST: dict[KvDtype, str] = {"fp16": "65520", "bf16": "3.3961776e38"}
"""The smallest magnitude that rounds to infinity."""


def typed(words: U16, dtype: KvDtype) -> Typed:
    """The same memory under the dtype that names its format to a kernel."""
    return words if dtype == "fp16" else words.view(np.int16)


def rounded(values: F32, dtype: KvDtype, place: str) -> U16:
    """Round float32 once, to nearest even; same shape. Raises EngineError where a value has no finite word."""
    words = np.empty(values.shape, dtype=np.uint16)
    write_rounded(values, dtype, words, place)
    return words


def write_rounded(values: F32, dtype: KvDtype, out: U16, place: str) -> None:
    """As `rounded`, into C-ordered ``out``."""
    if values.dtype != np.float32:
        raise EngineError(f"{place}: expected float32, got {values.dtype}; convert it before it reaches the cache")
    if not round_row(np.ascontiguousarray(values).reshape(-1), typed(out, dtype).reshape(-1)):
        raise EngineError(_does_not_fit(values, out, dtype, place))


def image(words: U16, dtype: KvDtype, out: F32) -> None:
    """Write the float32 image of ``words`` into ``out``, both C-ordered and of one shape."""
    widen_row(typed(words, dtype).reshape(-1), out.reshape(-1))


@kernel
def widen_row(words: Typed, out: F32) -> None:
    for i in range(len(words)):
        out[i] = widen(words[i])


@kernel
def round_row(values: F32, out: Typed) -> bool:
    """Whether every word is finite."""
    worst = np.float32(0.0)
    for i in range(len(values)):
        out[i] = narrow(values[i], out[i])
        worst += widen(out[i]) * np.float32(0.0)  # NaN for a word that is infinite or NaN
    return bool(worst == np.float32(0.0))


@kernel
def gather_rows(raw: U16, unpacked: U16, runs: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64], out: U16) -> None:
    """Copy the rows of sorted ``tokens`` to the first rows of ``out``, each from where ``runs`` (`attention.Runs`) says it lies."""
    run = start = 0
    for i in range(len(tokens)):
        while tokens[i] >= start + runs[run, 2]:
            start += runs[run, 2]
            run += 1
        row = runs[run, 1] + tokens[i] - start
        out[i] = raw[row] if runs[run, 0] == 0 else unpacked[row]


def _does_not_fit(values: F32, words: U16, dtype: KvDtype, place: str) -> str:
    wide = np.empty(values.shape, dtype=np.float32)
    image(words, dtype, wide)
    bad = float(values[~np.isfinite(wide)][0])
    return f"{place}: expected finite values that fit {dtype} (below {LARGEST[dtype]}), got {bad!r}; the weights overflow"
