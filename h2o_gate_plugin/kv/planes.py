"""fp16 words as two byte planes, and the bit shuffle of a byte string. Shapes: ``[n_seq, n_kv_head, head_dim]``."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec_kernels import join_words, split_words

Part = Literal["k", "v"]
Shape = tuple[int, int, int]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]


class StoredPlane(NamedTuple):
    """What a payload says of one of its byte planes: its bytes there, and the predictor of each block of tokens.

    ``shortest_match_bytes``: the plane is those predictors' residuals in zstd frames whose matches are that long or longer; None: it is
    anything else (bit shuffled, other contexts), and `offline.order0` cannot say how small it may be.
    """

    n_bytes: int
    block_tokens: int
    modes: tuple[str, ...]
    shortest_match_bytes: int | None


MAX_TENSOR_ELEMENTS = 2**31 - 1
"""So that every length of a payload fits the 32-bit fields of its headers."""


def checked_size(shape: Shape, place: str) -> int:
    """Elements of a declared ``[n_seq, n_kv_head, head_dim]``; raises CodecError for one that no codec writes.

    An empty dimension counts as 1 against the limit: the others are declared too, and loops and row buffers go by them.
    """
    n_seq, n_kv_head, head_dim = shape
    if min(shape) < 0 or max(n_seq, 1) * max(n_kv_head, 1) * max(head_dim, 1) > MAX_TENSOR_ELEMENTS:
        raise CodecError(f"{place}: shape: expected at most {MAX_TENSOR_ELEMENTS} elements, got {shape}; encode in chunks")
    return n_seq * n_kv_head * head_dim


def checked_tensor(tensor: U16, place: str) -> U16:
    """Return ``tensor`` as C-ordered little-endian u16; raises CodecError for another dtype, rank or an oversized tensor."""
    if tensor.dtype != np.uint16 or tensor.ndim != 3:
        raise CodecError(
            f"{place}: tensor: expected uint16 [n_seq, n_kv_head, head_dim], got {tensor.dtype} {tensor.shape}; view fp16 as uint16"
        )
    checked_size((tensor.shape[0], tensor.shape[1], tensor.shape[2]), place)
    return np.ascontiguousarray(tensor, dtype="<u2")


def split_planes(tensor: U16) -> tuple[U8, U8]:
    """``[n, h, d]`` u16 → (high bytes, low bytes), each a C-ordered u8 ``[n, h, d]``; ``tensor`` as `checked_tensor` returns it."""
    high, low = np.empty(tensor.shape, dtype=np.uint8), np.empty(tensor.shape, dtype=np.uint8)
    split_words(tensor, high, low)
    return high, low


def join_planes(high: U8, low: U8) -> U16:
    """The inverse of `split_planes`: a new writable u16 ``[n, h, d]``."""
    tensor = np.empty(high.shape, dtype=np.uint16)
    join_words(high, low, tensor)
    return tensor


def bitshuffle(payload: U8) -> U8:
    """Bit planes of all bytes one after the other, highest bit first; same number of bytes, any length, no padding."""
    bits = np.unpackbits(payload.reshape(-1)).reshape(-1, 8)
    return np.packbits(bits.T)  # [n, 8] -> [8, n] -> n bytes


def bitunshuffle(payload: U8) -> U8:
    """The inverse of `bitshuffle`."""
    bits = np.unpackbits(payload.reshape(-1)).reshape(8, -1)
    return np.packbits(bits.T)  # [8, n] -> [n, 8] -> n bytes
