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


def rope_tables(n_position: int, head_dim: int, theta: float) -> tuple[F32, F32]:
    """Cosine and signed sine [n_position, 1, 2, head_dim / 2] for ``rotate``; the sign is minus for the first half.

    Angles are taken in float32 as Hugging Face does, so that late positions carry the same rounding.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.power(np.float32(theta), exponents)
    angles = np.outer(np.arange(n_position, dtype=np.float32), frequencies)  # [n_position, head_dim / 2]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack((cos, cos), axis=1)[:, None], np.stack((-sin, sin), axis=1)[:, None]


def rotate(x: F32, cos: F32, sin: F32) -> F32:
    """RoPE (Su et al. 2021) in the ``rotate_half`` layout. x [n, n_head, 2, head_dim / 2], tables [n, 1, 2, head_dim / 2]."""
    rotated: F32 = x * cos
    rotated += x[:, :, ::-1] * sin
    return rotated


def softmax_in_place(scores: F32) -> F32:
    """Softmax over the last axis; overwrites and returns ``scores``."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


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
