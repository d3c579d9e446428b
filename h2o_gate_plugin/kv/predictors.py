"""The reversible byte predictors of the llm_bench contract ("The offline evaluator's arithmetic"); bytes are modulo 256.

To add one: give it the next free ``mode``. A mode never changes its meaning, because stored blocks carry it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from h2o_gate_plugin.errors import CodecError, nearest
from h2o_gate_plugin.kv.planes import U8
from h2o_gate_plugin.kv_options import K_PREDICTORS


@dataclass(frozen=True)
class Predictor:
    """``pairs``: an odd channel minus its even neighbour in the same head; ``seq``: minus (or xor) the previous token of the block."""

    mode: int
    name: str
    pairs: bool = False
    seq: Literal["none", "delta", "xor"] = "none"

    def forward(self, plane: U8, block_tokens: int) -> U8:
        """Residuals of ``plane`` [n, h, d], each block of ``block_tokens`` apart: its first token is its base. Raw: ``plane`` itself."""
        base = plane
        if self.pairs:
            base = plane.copy()
            base[..., 1::2] -= plane[..., 0 : plane.shape[2] - 1 : 2]
        if self.seq == "none":
            return base
        step = np.empty_like(base)
        difference = np.subtract if self.seq == "delta" else np.bitwise_xor
        difference(base[1:], base[:-1], out=step[1:])
        step[::block_tokens] = base[::block_tokens]
        return step

    def inverse(self, block: U8) -> U8:
        """The bytes behind the residuals ``block`` [tokens of one block, h, d]; a new array unless there is nothing to undo."""
        if self.seq == "delta":
            block = np.add.accumulate(block, axis=0, dtype=np.uint8)
        elif self.seq == "xor":
            block = np.bitwise_xor.accumulate(block, axis=0)
        if self.pairs:
            block = block.copy()
            block[..., 1::2] += block[..., 0 : block.shape[2] - 1 : 2]
        return block


_ALL = (
    Predictor(0, "raw"),
    Predictor(1, "delta_seq", seq="delta"),
    Predictor(2, "xor_seq", seq="xor"),
    Predictor(3, "pair_delta", pairs=True),
    Predictor(4, "pair_delta_delta_seq", pairs=True, seq="delta"),
)


def predictors_by_name(names: Iterable[str], place: str) -> tuple[Predictor, ...]:
    """The predictors in the order given, which decides ties; raises CodecError for an unknown or repeated name or an empty list."""
    known = {predictor.name: predictor for predictor in _ALL}
    chosen = tuple(names)
    for name in chosen:
        if name not in known:
            raise CodecError(f"{place}: predictor: expected a known name, got {name!r}; {nearest(name, K_PREDICTORS)}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise CodecError(f"{place}: predictors: expected one or more different names, got {chosen!r}; legal are {', '.join(K_PREDICTORS)}")
    return tuple(known[name] for name in chosen)


def predictor_by_mode(mode: int, place: str) -> Predictor:
    """The predictor behind a stored mode byte; raises CodecError for an unknown one."""
    if mode >= len(_ALL):
        raise CodecError(f"{place}: predictor mode: expected 0 to {len(_ALL) - 1}, got {mode}; the payload is damaged")
    return _ALL[mode]
