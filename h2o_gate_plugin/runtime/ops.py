"""The arithmetic of a Llama block in float32 numpy, as in Hugging Face's ``modeling_llama``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis (Zhang and Sennrich 2019). [..., d] -> [..., d]"""
    mean_square = np.vecdot(x, x) / np.float32(x.shape[-1])  # [..., d] -> [...]
    normed: F32 = x / np.sqrt(mean_square + np.float32(eps))[..., None]
    normed *= weight
    return normed


def rope_tables(n_position: int, frequencies: F32) -> tuple[F32, F32]:
    """Cosine and sine [n_position, head_dim / 2] for ``frequencies`` [head_dim / 2] in radians per position.

    Angles are taken in float32 as Hugging Face does, so that late positions carry the same rounding.
    """
    angles = np.outer(np.arange(n_position, dtype=np.float32), frequencies)  # [n_position, head_dim / 2]
    return np.cos(angles), np.sin(angles)


def rotate(x: F32, cos: F32, sin: F32) -> F32:
    """RoPE (Su et al. 2021) in the ``rotate_half`` layout. x [n, n_head, head_dim], tables [n, 1, head_dim / 2]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    rotated: F32 = np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated


def silu(x: F32) -> F32:
    """``x * sigmoid(x)``; exp overflows to inf for x < -88, which divides to the right -0."""
    with np.errstate(over="ignore"):
        result: F32 = np.divide(x, np.float32(1.0) + np.exp(-x), dtype=np.float32)
    return result


def log_softmax(logits: F32) -> NDArray[np.float64]:
    """Log-probabilities in nats over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return result
