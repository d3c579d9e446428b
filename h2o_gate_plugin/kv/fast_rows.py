"""What the encoder and the decoder of ``kv_fast`` both compute for a row: from expected means and deviations the number of a table.

Single float32 operations in a fixed order, compiled with no licence to fuse or reorder them, so that both sides agree on every
machine. A row is ``n`` = n_kv_head * head_dim channels, filled up to ``padded``, a whole number of LANES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import bits_float, kernel, widen
from h2o_gate_plugin.kv.fast_tables import CERTAIN, CLASSES, F32, I64, MEAN_BINS, SLOT_BITS, U32, WINDOW

I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Typed = npt.NDArray[Any]
"""Words under the dtype that names their format: uint16 fp16, int16 bf16."""
Function = TypeVar("Function", bound=Callable[..., Any])

LANES = 8
ALONE, COPY = 0, 1
"""Codes of a row: without a reference; equal to an earlier one. 2 to 7: a reference with a gain of 3 to 8 eighths."""
KINDS = 2 * CLASSES
"""A row's class of residual variance, plus CLASSES where it has no reference."""

_THIRD, _EIGHTH, _FAR, _ZERO = np.float32(1 / 3), np.float32(1 / 8), np.float32(63), np.float32(0)


def exact_kernel(function: Function) -> Function:
    """Compiled with no licence to change a float operation."""
    return kernel(function, frozenset())


@exact_kernel
def lowest_scale(bias: int) -> int:
    """The smallest deviation that a channel may have: 2^-14 in fp16, 2^-60 in bf16 (quarter octaves above 2^-bias)."""
    return 4 if bias == 15 else 4 * 67


@exact_kernel
def highest_scale(bias: int) -> int:
    """The largest: just below 2^17 in fp16, 2^60 in bf16 (quarter octaves above 2^-bias)."""
    return 4 * 32 - 1 if bias == 15 else 4 * 187 - 1


@exact_kernel
def power(quarters: int, bias: int, roots: F32) -> Any:
    """2^(quarters/4 - bias), rounded alike everywhere."""
    return roots[quarters & 3] * bits_float(np.int32(((quarters >> 2) - bias + 127) << 23))


@exact_kernel
def set_means(scales: I64, levels: I64, weights: I64, bias: int, roots: F32, mean: F32, weight: F32) -> None:
    """Mean and weight of every channel from what the payload says: ``levels`` in quarters of a deviation, ``weights`` in thirds."""
    for c in range(len(scales)):
        mean[c] = np.float32(levels[c]) * power(scales[c] - 8, bias, roots)
        weight[c] = np.float32(weights[c]) * _THIRD


@exact_kernel
def fill_kind(
    kind: int, scales: I64, weights: I64, bias: int, inverse_roots: F32, steps: I64, table_at: U32, shift: I32, inverse: F32
) -> None:
    """What depends on the channel alone in a row of this kind, all [padded]: ``table_at``: the first slot of the tables of its
    deviation; ``shift``: what a symbol lacks of the upper bits; ``inverse``: 4 / deviation.
    """
    for c in range(len(scales)):
        quarters = scales[c] + steps[kind & (CLASSES - 1), weights[c] if kind < CLASSES else 3]
        table_at[c] = ((quarters & 3) * MEAN_BINS) << SLOT_BITS
        shift[c] = 4 * (quarters >> 2) - WINDOW
        inverse[c] = inverse_roots[quarters & 3] * bits_float(np.int32((bias - (quarters >> 2) + 2 + 127) << 23))
    for c in range(len(scales), len(table_at)):
        table_at[c] = CERTAIN << SLOT_BITS
        shift[c] = 0
        inverse[c] = _ZERO


@exact_kernel
def row_contexts(reference: Typed, code: int, mean: F32, weight: F32, table_at: U32, inverse: F32, slot_at: U32, flips: I32) -> None:
    """The first slot of every channel's table, and 128 where a symbol's sign is flipped because the mean is negative.

    ``reference``: the words of an earlier row, not read where ``code`` is ALONE. The expected word is the channel's mean plus the
    reference's distance from it times gain and weight.
    """
    gain = np.float32(code + 1) * _EIGHTH
    for c in range(len(reference)):
        expected = mean[c] + gain * weight[c] * (widen(reference[c]) - mean[c]) if code != ALONE else mean[c]
        far = abs(expected) * inverse[c]
        quarters = np.int32(far if far < _FAR else _FAR)
        mean_bin = quarters if quarters < 12 else 12 + ((quarters - 12) >> 2)
        slot_at[c] = table_at[c] + (mean_bin << SLOT_BITS)
        flips[c] = 128 if expected < _ZERO else 0
    for c in range(len(reference), len(table_at)):
        slot_at[c] = table_at[c]
        flips[c] = 0
