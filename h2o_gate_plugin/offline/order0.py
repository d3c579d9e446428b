"""How small an honest payload of a byte-plane codec can be: the entropy bound.

A byte-plane codec turns a plane into residual bytes, the symbols, and gives them to zstd, which writes them as matches (copies of earlier
symbols, `StoredPlane.shortest_match_bytes` long or longer) and literals (Huffman codes, one table per zstd block). So

    bound = sum over pieces of n * H(histogram of the piece's n symbols that no match can reach)

where a match can reach a symbol that lies in a string of that many bytes which starts earlier in the same plane of the same payload too.
Headers, code tables and matches cost nothing here, and leaving symbols out never raises n * H (it is the least that any distribution q
gives to the sum of -log2 q, and no term is negative): whatever zstd makes of strings that repeat, it cannot pass. This covers predictors
(the symbols are the residuals of those that the payload names), rows and parts of rows that repeat, constant planes, and adaptation from
block to block: pieces end where predictor blocks end and at every multiple of ``PIECE_BYTES``. Up to level 9 zstd begins a code table at
multiples of 8 KiB alone (ZSTD_splitBlock of 1.5.7; always at 128 KiB before), so that a piece has one table and the bound is a proof.

What could pass without a fault: the tables of levels 10 to 22, which may begin anywhere (strings of three bytes make up for more than
that), and a codec whose symbols carry more than these residuals. The latter says so (`StoredPlane.shortest_match_bytes` None, or no
planes at all), and then there is no bound.
"""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.kv.planes import U8, U16, StoredPlane, split_planes
from h2o_gate_plugin.kv.predictors import predictors_by_name
from h2o_gate_plugin.offline.order0_kernels import entropy_bits, mark_repeated_strings

PIECE_BYTES = 4096
_MOST_SEEN_BITS = 28  # 32 MiB: above 2^23 symbols more and more strings share their bits, and the bound becomes looser


def payload_bound_bytes(chunk: U16, planes: tuple[StoredPlane, StoredPlane] | None) -> int | None:
    """Bytes that no honest payload of ``chunk`` u16 ``[n_seq, kv_heads, head_dim]`` is below; None where there is no bound."""
    if planes is None:
        return None
    total = 0
    for plane, stored in zip(split_planes(chunk), planes, strict=True):
        if stored.shortest_match_bytes is None:
            return None
        total += _plane_bound_bytes(plane, stored, stored.shortest_match_bytes)
    return total


def _plane_bound_bytes(plane: U8, stored: StoredPlane, string_bytes: int) -> int:
    """u8 ``[n_seq, kv_heads, head_dim]`` → whole bytes, rounded down."""
    symbols = _symbols(plane, stored)
    seen_bits = min(_MOST_SEEN_BITS, len(symbols).bit_length() + 5)
    repeated = np.zeros(len(symbols), dtype=np.bool_)
    mark_repeated_strings(symbols, string_bytes, np.zeros(1 << (seen_bits - 3), dtype=np.uint8), repeated)
    block_bytes = max(1, stored.block_tokens * plane.shape[1] * plane.shape[2])
    bits = entropy_bits(symbols, repeated, block_bytes, PIECE_BYTES)
    return max(0, int(bits / 8 - 1e-6))  # less what the sum may have been rounded up


def _symbols(plane: U8, stored: StoredPlane) -> U8:
    """The plane's residuals under the predictor that each block is stored with, flat."""
    names = sorted(set(stored.modes))
    by_name = {each.name: each.forward(plane, max(1, stored.block_tokens)) for each in predictors_by_name(names or ["raw"], "order-0")}
    if len(by_name) == 1:
        return next(iter(by_name.values())).reshape(-1)
    blocks = [
        by_name[name][index * stored.block_tokens : (index + 1) * stored.block_tokens] for index, name in enumerate(stored.modes)
    ]  # [block_tokens, kv_heads, head_dim] each
    return np.concatenate(blocks).reshape(-1)
