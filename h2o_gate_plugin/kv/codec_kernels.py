"""Compiled loops of the byte-plane codecs: splitting and joining words, the predictors of every mode, and their undoing.

A plane is u8 ``[n_seq, n_kv_head, head_dim]``, C-ordered; bytes are modulo 256. A mode is the number that `predictors` stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.jit import kernel

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

RAW, DELTA_SEQ, XOR_SEQ, PAIR_DELTA, PAIR_DELTA_DELTA_SEQ = range(5)


@kernel
def split_words(words: U16, high: U8, low: U8) -> None:
    """All three [n_seq, n_kv_head, head_dim]."""
    flat, flat_high, flat_low = words.reshape(-1), high.reshape(-1), low.reshape(-1)
    for i in range(len(flat)):
        flat_high[i] = flat[i] >> 8
        flat_low[i] = flat[i] & 0xFF


@kernel
def join_words(high: U8, low: U8, words: U16) -> None:
    """The inverse of `split_words`."""
    flat, flat_high, flat_low = words.reshape(-1), high.reshape(-1), low.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _word(flat_high[i], flat_low[i])


@kernel
def predict(plane: U8, modes: U8, block_tokens: int, residuals: U8) -> None:
    """Write ``residuals[i]`` of ``plane`` under ``modes[i]``; the first token of every ``block_tokens`` is a base of its own."""
    n_seq, n_kv_head, head_dim = plane.shape
    rows = plane.reshape(n_seq, n_kv_head * head_dim)
    out = residuals.reshape(len(modes), n_seq, n_kv_head * head_dim)
    odd = _odd_channels(n_kv_head, head_dim, plane)
    for i in range(len(modes)):
        if modes[i] < PAIR_DELTA:
            _step(rows, modes[i], block_tokens, out[i])
        else:
            _step(_minus_even(rows, odd), modes[i], block_tokens, out[i])


@kernel
def undo(residuals: U8, modes: U8, block_tokens: int, plane: U8) -> None:
    """The inverse of `predict`: ``modes[i]`` is that of block i. ``residuals``: [n_seq * n_kv_head * head_dim]."""
    _undo(residuals, modes, block_tokens, 0, plane)


@kernel
def undo_and_join(high: U8, high_modes: U8, high_block_tokens: int, low: U8, low_modes: U8, low_block_tokens: int, words: U16) -> None:
    """`undo` both planes' residuals [n_seq * n_kv_head * head_dim] and join them into ``words`` [n_seq, n_kv_head, head_dim]."""
    _undo(high, high_modes, high_block_tokens, 8, words)
    flat = words.reshape(-1)
    if np.all(low_modes == RAW):
        for i in range(len(flat)):
            flat[i] |= low[i]
    else:
        plane = np.empty(words.shape, dtype=np.uint8)
        _undo(low, low_modes, low_block_tokens, 0, plane)
        flat_plane = plane.reshape(-1)
        for i in range(len(flat)):
            flat[i] |= flat_plane[i]


@kernel
def _word(high: int, low: int) -> int:
    return (np.uint16(high) << np.uint16(8)) | np.uint16(low)  # type: ignore[return-value]


@kernel
def _odd_channels(n_kv_head: int, head_dim: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """All bits set where a channel has an even neighbour before it in its head, else 0: a mask leaves loops their vector lanes."""
    odd = np.zeros(n_kv_head * head_dim, dtype=like.dtype)
    for c in range(len(odd)):
        odd[c] = -(c % head_dim & 1)
    return odd


@kernel
def _minus_even(rows: U8, odd: U8) -> U8:
    base = rows.copy()
    for token in range(len(rows)):
        for c in range(len(odd) - 1):
            base[token, c + 1] -= rows[token, c] & odd[c + 1]
    return base


@kernel
def _step(rows: U8, mode: int, block_tokens: int, out: U8) -> None:
    """The sequence part of a mode: minus, or xor, the row before."""
    n_seq, row_bytes = rows.shape
    for token in range(n_seq):
        if mode in (RAW, PAIR_DELTA) or token % block_tokens == 0:
            for c in range(row_bytes):
                out[token, c] = rows[token, c]
        elif mode == XOR_SEQ:
            for c in range(row_bytes):
                out[token, c] = rows[token, c] ^ rows[token - 1, c]
        else:
            for c in range(row_bytes):
                out[token, c] = rows[token, c] - rows[token - 1, c]


@kernel
def _undo(residuals: U8, modes: U8, block_tokens: int, shift: int, plane: npt.NDArray[Any]) -> None:
    """Each byte is written ``shift`` bits higher: sums modulo 2^16 of bytes in the high half are sums modulo 256."""
    n_seq, n_kv_head, head_dim = plane.shape
    row_bytes = n_kv_head * head_dim
    rows, out = residuals.reshape(n_seq, row_bytes), plane.reshape(n_seq, row_bytes)
    odd = _odd_channels(n_kv_head, head_dim, plane)
    base = np.zeros(row_bytes, dtype=plane.dtype)  # the row with its sequence part undone
    for token in range(n_seq):
        mode = modes[token // block_tokens]
        if mode == RAW:
            for c in range(row_bytes):
                out[token, c] = np.uint16(rows[token, c]) << shift
            continue
        if mode == PAIR_DELTA or token % block_tokens == 0:
            for c in range(row_bytes):
                base[c] = np.uint16(rows[token, c]) << shift
        elif mode == XOR_SEQ:
            for c in range(row_bytes):
                base[c] ^= np.uint16(rows[token, c]) << shift
        else:
            for c in range(row_bytes):
                base[c] += np.uint16(rows[token, c]) << shift
        for c in range(row_bytes):
            out[token, c] = base[c]
        if mode >= PAIR_DELTA:
            for c in range(row_bytes - 1):
                out[token, c + 1] += base[c] & odd[c + 1]
