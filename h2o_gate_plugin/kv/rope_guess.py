"""How K was rotated and how spread out each channel is, estimated by an encoder and sent to its decoder: floats may be used here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.max_model import Layout, Rope
from h2o_gate_plugin.kv.planes import U16, Part
from h2o_gate_plugin.kv.words import image
from h2o_gate_plugin.kv_options import KvDtype

F64 = npt.NDArray[np.float64]

THETAS = (10_000.0, 500_000.0, 1_000_000.0)
"""Of Llama 1 and 2, Llama 3, Qwen 2 and Mistral."""
LEAST_TOKENS = 16
LEAST_GAIN = 0.02
"""Nats a channel that a rotation must save before it is believed."""
MOST_HEADS = 2
RIDGE = 0.02


def guess_rope(keys: U16, dtype: KvDtype) -> Rope | None:
    """Of K ``[n_seq, n_kv_head, head_dim]``, the rotation without which channels are told from each other best; None where none does."""
    if len(keys) < LEAST_TOKENS:
        return None
    values = _finite(keys, dtype)
    ropes = [Rope(theta, interleaved) for interleaved in (False, True) for theta in THETAS]
    unrest = [_unrest(_unrotated(values, rope)) for rope in ropes]
    best = int(np.argmin(unrest))
    return ropes[best] if unrest[best] < _unrest(values) - LEAST_GAIN else None


def nominal_spreads(rows: Mapping[Part, U16], layout: Layout) -> list[npt.NDArray[np.int8]]:
    """log2 of each channel's root mean square, one for both of a RoPE pair: ``[n_channel]`` for each of ``rows``."""
    spreads = []
    for part, words in rows.items():
        values = _finite(words.reshape(len(words), -1, layout.head_dim), layout.dtype)
        squares = np.mean(values * values, axis=0)  # [n_kv_head, head_dim]
        if part == "k" and layout.rope is not None:
            axis = (-1, 2) if layout.rope.interleaved else (2, -1)
            pairs = squares.reshape(len(squares), *(layout.head_dim // 2 if n == -1 else n for n in axis))
            pair_axis = 2 if layout.rope.interleaved else 1
            squares = np.broadcast_to(pairs.mean(axis=pair_axis, keepdims=True), pairs.shape).reshape(squares.shape)
        power = np.frexp(np.maximum(squares, 2.0**-200))[1] // 2  # exact, where log2 would depend on the library
        spreads.append(np.clip(power, -100, 100).astype(np.int8).reshape(-1))
    return spreads


def _finite(words: U16, dtype: KvDtype) -> F64:
    values = np.empty(words.shape, dtype=np.float32)
    image(np.ascontiguousarray(words), dtype, values)
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _unrotated(values: F64, rope: Rope) -> F64:
    half = values.shape[2] // 2
    angle = np.arange(len(values))[:, None] * rope.theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = (values[..., 0::2], values[..., 1::2]) if rope.interleaved else (values[..., :half], values[..., half:])
    return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


def _unrest(values: F64) -> float:
    """Half the mean log eigenvalue of the heads' covariances over the tokens (nats a channel): what a linear prediction leaves of them."""
    unrest = []
    for head in range(min(values.shape[1], MOST_HEADS)):
        covariance = np.cov(values[:, head, :], rowvar=False)
        diagonal = np.diag(covariance)
        ridge = np.diag(RIDGE * diagonal + 1e-6 * diagonal.mean() + 1e-300)
        unrest.append(0.5 * np.linalg.slogdet(covariance + ridge)[1] / len(diagonal))
    return float(np.mean(unrest))
