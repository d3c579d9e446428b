"""What the encoder of ``kv_fast`` expects of a tensor: deviation, mean and weight of each channel, and each row's reference.

Nothing here has to come out alike on two machines: the choices stand in the payload.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from h2o_gate_plugin.jit import kernel, widen
from h2o_gate_plugin.kv.fast_bits import MAX_BACK
from h2o_gate_plugin.kv.fast_rows import ALONE, COPY, I32, Typed, highest_scale, lowest_scale, power
from h2o_gate_plugin.kv.fast_tables import CLASSES, F32, I64, U64

TOGETHER = 4
"""Rows whose references are looked for at once."""

_ZERO, _ONE, _HALF, _TINY = np.float32(0), np.float32(1), np.float32(0.5), np.float32(1e-36)


@kernel
def sane_values(words: Typed, largest: float, values: F32) -> None:
    """The float32 of every word; 0 for what is not finite or too large to be squared."""
    for row in range(len(words)):
        for c in range(words.shape[1]):
            value = widen(words[row, c])
            values[row, c] = value if abs(value) <= np.float32(largest) else _ZERO


@kernel
def choose_channels(values: F32, bias: int, weighted: bool, roots: F32, scales: I64, levels: I64, weights: I64) -> None:
    """Per channel: the nearest quarter octave of its deviation, its mean in quarters of that, and in thirds its product with the row
    before over its variance, which is how much of a reference it takes over; 3 where not ``weighted``.
    """
    n_seq, n = values.shape
    mean, variance, lagged = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    for row in range(n_seq):
        for c in range(n):
            mean[c] += values[row, c]
    share = np.float32(1 / max(1, n_seq))
    for c in range(n):
        mean[c] *= share
    for row in range(n_seq):
        for c in range(n):
            off = values[row, c] - mean[c]
            variance[c] += off * off
            if row:
                lagged[c] += off * (values[row - 1, c] - mean[c])
    for c in range(n):
        scales[c] = lowest_scale(bias)
        if variance[c] * share > _TINY:
            octaves = np.log2(variance[c] * share) * _HALF
            scales[c] = min(highest_scale(bias), max(scales[c], int(np.floor(4 * octaves + _HALF)) + 4 * bias))
        level = mean[c] / power(scales[c] - 8, bias, roots)
        levels[c] = int(np.floor(min(np.float32(16000), max(np.float32(-16000), level)) + _HALF))
        taken = lagged[c] / variance[c] if weighted and variance[c] > _TINY else _ONE
        weights[c] = int(3 * min(_ONE, max(_ZERO, taken)) + _HALF)


@kernel
def normalise(values: F32, mean: F32, weight: F32, inverse: F32, z: F32, weighted_z: F32) -> None:
    """Distances from the mean in deviations, [n_seq + TOGETHER, n], and the same times the weights. ``inverse``: 4 / deviation."""
    quarter = np.float32(0.25)
    for row in range(len(values)):
        for c in range(values.shape[1]):
            z[row, c] = (values[row, c] - mean[c]) * (inverse[c] * quarter)
            weighted_z[row, c] = z[row, c] * weight[c]
    for row in range(len(values), len(z)):
        for c in range(values.shape[1]):
            z[row, c] = weighted_z[row, c] = _ZERO


@kernel
def hash_rows(words: Typed, hashes: U64) -> None:
    """Equal rows have equal hashes; most others do not."""
    odd = np.empty(words.shape[1], dtype=np.uint32)
    for c in range(len(odd)):
        odd[c] = (2 * c + 1) * 0x9E3779B1
    for row in range(len(words)):
        total = np.uint32(0)
        for c in range(len(odd)):
            total += np.uint32(words[row, c]) * odd[c]
        hashes[row] = total


@kernel
def equal_row(words: Typed, hashes: U64, row: int, first: int) -> int:
    """The newest row in ``first`` … ``row`` - 1 with the same words; -1: none."""
    for back in range(1, row - first + 1):
        if hashes[row - back] == hashes[row]:
            same = True
            for c in range(words.shape[1]):
                same &= words[row - back, c] == words[row, c]
            if same:
                return row - back
    return -1


@kernel
def products(z: F32, weighted_z: F32, row: int, first: int, out: F32) -> None:
    """out[i, other] of the rows ``row`` + i with every row from ``first`` on that one of them may refer to: [TOGETHER, n_seq]."""
    for other in range(first, row + TOGETHER - 1):
        a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(z.shape[1]):
            value = weighted_z[other, i]
            a += z[row, i] * value
            b += z[row + 1, i] * value
            c += z[row + 2, i] * value
            d += z[row + 3, i] * value
        out[0, other], out[1, other], out[2, other], out[3, other] = a, b, c, d


@kernel
def energies(z: F32, out: F32) -> Any:
    """Sum of squares of every row; returns their total."""
    every = _ZERO
    for row in range(len(z)):
        total = _ZERO
        for i in range(z.shape[1]):
            total += z[row, i] * z[row, i]
        out[row] = total
        every += total
    return every


@kernel
def choose_rows(words: Typed, z: F32, weighted_z: F32, adjacent: bool, references: I32, codes: I32, classes: I32) -> None:
    """Per row the earlier one that leaves the least energy, its gain code, and the class of what is left (fast_bits)."""
    n_seq, n = words.shape
    hashes, out = np.empty(n_seq, dtype=np.uint64), np.empty((TOGETHER, n_seq + TOGETHER), dtype=np.float32)
    energy, weighted = np.empty(len(z), dtype=np.float32), np.empty(len(z), dtype=np.float32)
    hash_rows(words, hashes)
    every = energies(z, energy)
    takes_over = energies(weighted_z, weighted) / max(every, _TINY)  # the mean square of the weights
    for row in range(n_seq):
        if row % TOGETHER == 0:
            products(z, weighted_z, row, max(0, row - (1 if adjacent else MAX_BACK)), out)
        first = max(0, row - (1 if adjacent else MAX_BACK))
        classes[row], codes[row], references[row] = 0, COPY, equal_row(words, hashes, row, first)
        if references[row] >= 0:
            continue
        best, saved = -1, _ZERO
        for other in range(first, row):
            product = max(_ZERO, out[row % TOGETHER, other])
            gain = min(_ONE, product / max(weighted[other], _TINY))
            saving = gain * (product + product - gain * weighted[other])
            if saving > saved:
                best, saved = other, saving
        gain = out[row % TOGETHER, best] / weighted[best] if best >= 0 else _ZERO
        eighths = min(8, int(8 * gain + _HALF))
        codes[row] = eighths - 1 if eighths > 2 else ALONE
        references[row] = best if codes[row] != ALONE else -1
        if codes[row] == ALONE:
            left, shared = energy[row] / np.float32(n), _ONE
        else:
            left, shared = (energy[row] - saved) / np.float32(n), takes_over
        residual = _ONE - (_ONE - left) / max(shared, np.float32(0.01))  # left = 1 - shared (1 - residual)
        octave = np.log2(max(residual, np.float32(2.0**-CLASSES)))
        classes[row] = min(CLASSES - 1, max(0, int(np.floor(1.5 - octave))))
