"""The reversible byte predictors of the llm_bench contract ("The offline evaluator's arithmetic"); bytes are modulo 256.

To add one: give it the next free mode in `codec_kernels`, where its arithmetic stands. A mode never changes its meaning, because
stored blocks carry it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from h2o_gate_plugin.errors import CodecError, nearest
from h2o_gate_plugin.kv.codec_kernels import DELTA_SEQ, PAIR_DELTA, PAIR_DELTA_DELTA_SEQ, RAW, XOR_SEQ, predict, undo
from h2o_gate_plugin.kv.planes import U8
from h2o_gate_plugin.kv_options import K_PREDICTORS


@dataclass(frozen=True)
class Predictor:
    """``delta_seq``, ``xor_seq``: minus, or xor, the previous token of the block; ``pair_delta``: an odd channel minus its even neighbour
    in the same head; ``pair_delta_delta_seq``: ``pair_delta``, then ``delta_seq``.
    """

    mode: int
    name: str

    def forward(self, plane: U8, block_tokens: int) -> U8:
        """Residuals of ``plane`` [n, h, d], each block of ``block_tokens`` apart: its first token is its base. Raw: ``plane`` itself."""
        return plane if self.mode == RAW else residuals(plane, modes_of((self,)), block_tokens).reshape(plane.shape)

    def inverse(self, block: U8) -> U8:
        """The bytes behind the residuals ``block`` [tokens of one block, h, d]; a new array unless there is nothing to undo."""
        if self.mode == RAW:
            return block
        plane = np.empty(block.shape, dtype=np.uint8)
        undo(np.ascontiguousarray(block).reshape(-1), modes_of((self,)), max(1, len(block)), plane)
        return plane


_ALL = (
    Predictor(RAW, "raw"),
    Predictor(DELTA_SEQ, "delta_seq"),
    Predictor(XOR_SEQ, "xor_seq"),
    Predictor(PAIR_DELTA, "pair_delta"),
    Predictor(PAIR_DELTA_DELTA_SEQ, "pair_delta_delta_seq"),
)


def modes_of(predictors: Iterable[Predictor]) -> U8:
    """The modes as a kernel takes them."""
    return np.array([predictor.mode for predictor in predictors], dtype=np.uint8)


def residuals(plane: U8, modes: U8, block_tokens: int) -> U8:
    """Residuals of ``plane`` [n, h, d] under each mode, as `Predictor.forward` says: u8 [n_mode, n * h * d]."""
    if len(modes) == 1 and modes[0] == RAW:  # most low planes: nothing to copy
        return plane.reshape(1, -1)
    out = np.empty((len(modes), plane.size), dtype=np.uint8)
    predict(np.ascontiguousarray(plane), modes, block_tokens, out)
    return out


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
