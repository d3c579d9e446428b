"""Compiled loops of the byte-plane codecs: splitting and joining words, the predictors of every mode, and their undoing.

A plane is u8 ``[n_seq, n_kv_head, head_dim]``, C-ordered; bytes are modulo 256. A mode is the number that `predictors` stores.
"""

from __future__ import annotations

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
        flat[i] = flat_high[i] << 8 | flat_low[i]


@kernel
def predict(plane: U8, modes: U8, block_tokens: int, residuals: U8) -> None:
    """Write ``residuals[i]`` of ``plane`` under ``modes[i]``; the first token of every ``block_tokens`` is a base of its own.

    The difference along the sequence is taken first: both are sums, and their order does not change the result.
    """
    n_seq, n_kv_head, head_dim = plane.shape
    row_bytes = n_kv_head * head_dim
    rows, out = plane.reshape(n_seq, row_bytes), residuals.reshape(len(modes), n_seq, row_bytes)
    odd = _odd_channels(n_kv_head, head_dim)
    step = np.empty(row_bytes, dtype=np.uint8)
    for i in range(len(modes)):
        mode = modes[i]
        for token in range(n_seq):
            if mode in (RAW, PAIR_DELTA) or token % block_tokens == 0:
                for c in range(row_bytes):
                    step[c] = rows[token, c]
            elif mode == XOR_SEQ:
                for c in range(row_bytes):
                    step[c] = rows[token, c] ^ rows[token - 1, c]
            else:
                for c in range(row_bytes):
                    step[c] = rows[token, c] - rows[token - 1, c]
            for c in range(row_bytes):
                out[i, token, c] = step[c]
            if mode >= PAIR_DELTA:
                for c in range(row_bytes - 1):
                    out[i, token, c + 1] -= step[c] & odd[c + 1]


@kernel
def undo_and_join(residuals: U8, modes: U8, block_tokens: int, low: U8, words: U16) -> None:
    """`undo` the high plane's ``residuals`` and join it with the plane ``low``, both flat, into ``words`` [n_seq, n_kv_head, head_dim].

    Bytes are summed in the high half of words: modulo 2^16 there is modulo 256.
    """
    n_seq, n_kv_head, head_dim = words.shape
    row_bytes = n_kv_head * head_dim
    rows, out = residuals.reshape(n_seq, row_bytes), words.reshape(n_seq, row_bytes)
    odd = _odd_channels(n_kv_head, head_dim)
    base = np.empty(row_bytes, dtype=np.uint16)  # the row with its sequence part undone
    for token in range(n_seq):
        mode = modes[token // block_tokens]
        if mode == RAW:
            for c in range(row_bytes):
                out[token, c] = rows[token, c] << 8
            continue
        if mode == PAIR_DELTA or token % block_tokens == 0:
            for c in range(row_bytes):
                base[c] = rows[token, c] << 8
        elif mode == XOR_SEQ:
            for c in range(row_bytes):
                base[c] ^= rows[token, c] << 8
        else:
            for c in range(row_bytes):
                base[c] += rows[token, c] << 8
        for c in range(row_bytes):
            out[token, c] = base[c]
        if mode >= PAIR_DELTA:
            for c in range(row_bytes - 1):
                out[token, c + 1] += base[c] & odd[c + 1]
    flat = words.reshape(-1)
    for i in range(len(flat)):
        flat[i] |= low[i]


@kernel
def undo(residuals: U8, modes: U8, block_tokens: int, plane: U8) -> None:
    """The inverse of `predict`: ``modes[i]`` is that of block i. ``residuals``: [n_seq * n_kv_head * head_dim]."""
    words = np.empty(plane.shape, dtype=np.uint16)
    undo_and_join(residuals, modes, block_tokens, np.zeros(plane.size, dtype=np.uint8), words)
    flat, flat_plane = words.reshape(-1), plane.reshape(-1)
    for i in range(len(flat)):
        flat_plane[i] = flat[i] >> 8


@kernel
def _odd_channels(n_kv_head: int, head_dim: int) -> U16:
    """All bits set where a channel has an even neighbour before it in its head, else 0: a mask leaves loops their vector lanes."""
    odd = np.zeros(n_kv_head * head_dim, dtype=np.uint16)
    for c in range(len(odd)):
        odd[c] = -(c % head_dim & 1)
    return odd
