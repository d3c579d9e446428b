"""The compiled arithmetic of one decoded token: matrix-vector products straight from the checkpoint's words, and what lies between.

Matrices are [out, in], float32 or 16-bit words; a product reads each weight once. Fields that a model family lacks are None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import exp_not_positive, kernel, widen
from h2o_gate_plugin.runtime.ops import F32

Matrix = npt.NDArray[Any]
"""float32, or words as ``jit`` types them: uint16 is fp16, int16 is bf16."""


def expanded(matrix: Matrix) -> F32:
    """The float32 image of a matrix, itself where it is float32."""
    if matrix.dtype == np.float32:
        return matrix
    image = np.empty(matrix.shape, dtype=np.float32)
    widen_matrix(matrix, image)
    return image


@kernel
def project_qkv(
    x: F32,
    norm: F32,
    eps: float,
    qkv: Matrix,
    bias: F32 | None,
    query_norm: F32 | None,
    key_norm: F32 | None,
    cos: F32,
    sin: F32,
    n_head: int,
    n_kv_head: int,
    out: F32,
) -> None:
    """Into ``out`` [n_head + 2 n_kv_head, d]: queries and keys after RoPE (tables [d / 2]), and values, of the token ``x`` [hidden]."""
    head_dim = out.shape[1]
    matvec(qkv, _normed(x, norm, eps), out.reshape(-1))
    if bias is not None:
        flat = out.reshape(-1)
        for i in range(len(flat)):
            flat[i] += bias[i]
    half = head_dim // 2
    for head in range(n_head + n_kv_head):
        if query_norm is not None and head < n_head:
            out[head] = _normed(out[head], query_norm, eps)
        if key_norm is not None and head >= n_head:
            out[head] = _normed(out[head], key_norm, eps)
        for c in range(half):
            first, second = out[head, c], out[head, half + c]
            out[head, c] = first * cos[c] - second * sin[c]
            out[head, half + c] = second * cos[c] + first * sin[c]


@kernel
def finish_layer(
    x: F32, mixed: F32, attention_out: Matrix, out_bias: F32 | None, norm: F32, eps: float, gate_up: Matrix, mlp_down: Matrix
) -> None:
    """Add the attention's output and the SwiGLU block to ``x`` [hidden], in place."""
    added = np.empty(len(x), dtype=np.float32)
    matvec(attention_out, mixed, added)
    for i in range(len(x)):
        x[i] += added[i]
    if out_bias is not None:
        for i in range(len(x)):
            x[i] += out_bias[i]
    both = np.empty(len(gate_up), dtype=np.float32)
    matvec(gate_up, _normed(x, norm, eps), both)
    inner = len(both) // 2
    for i in range(inner):
        decay = exp_not_positive(-abs(both[i]))
        sigmoid = (np.float32(1.0) if both[i] >= np.float32(0.0) else decay) / (np.float32(1.0) + decay)
        both[i] *= sigmoid * both[inner + i]
    matvec(mlp_down, both[:inner], added)
    for i in range(len(x)):
        x[i] += added[i]


@kernel
def next_logits(x: F32, norm: F32, eps: float, head: Matrix, logits: F32) -> None:
    """[hidden] -> ``logits`` [vocab]"""
    matvec(head, _normed(x, norm, eps), logits)


@kernel
def matvec(matrix: Matrix, x: F32, out: F32) -> None:
    """[out, in] @ [in] -> ``out`` [out]"""
    for row in range(len(out)):
        weights = matrix[row]
        total = np.float32(0.0)
        for i in range(len(x)):
            total += widen(weights[i]) * x[i]
        out[row] = total


@kernel
def widen_matrix(matrix: Matrix, out: F32) -> None:
    """The float32 image of words, both [rows, columns]."""
    for row in range(len(matrix)):
        for i in range(matrix.shape[1]):
            out[row, i] = widen(matrix[row, i])


@kernel
def _normed(x: F32, weight: F32, eps: float) -> F32:
    square_sum = np.float32(0.0)
    for i in range(len(x)):
        square_sum += x[i] * x[i]
    scale = np.float32(1.0) / np.sqrt(square_sum / np.float32(len(x)) + np.float32(eps))
    normed = np.empty(len(x), dtype=np.float32)
    for i in range(len(x)):
        normed[i] = x[i] * scale * weight[i]
    return normed
