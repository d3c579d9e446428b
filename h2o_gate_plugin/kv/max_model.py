"""What codec ``kv_max`` knows of a sequence: its rows so far, joint statistics of K and V, and when they are fitted anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.max_coder import I64, U8, Coder
from h2o_gate_plugin.kv.max_kernels import NOMINAL_BITS, WHOLE, code_references, code_segment, take_values, turns
from h2o_gate_plugin.kv.max_statistics import INFLATION_ONE, Predictor, Rows, add_products, fit, nearest_rows
from h2o_gate_plugin.kv.max_tables import cdf_table, odds_table, phase_steps, turn_table
from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.kv_options import KvDtype

GROUP_CHANNELS = 128
"""Whole heads are modelled together up to so many channels of K (and as many of V)."""
FIRST_FIT_TOKENS = 32
REFIT_SHARE = 8
"""Fitted again when an eighth more tokens are known, and never after fewer than `FIRST_FIT_TOKENS`."""
PRIOR_TOKENS = 4
WINDOW_TOKENS = 4096
"""How far back a reference may lie."""
SEARCH_SHIFT = 4
"""So that a sum of squared differences fits 63 bits for any number of channels."""

MANTISSA_BITS: dict[KvDtype, int] = {"fp16": 10, "bf16": 7}
_UNIT_POWERS: dict[KvDtype, int] = {"fp16": -25, "bf16": -134}
"""A word is significand · 2^(exponent field + this)."""


@dataclass(frozen=True)
class Rope:
    """Base of the rotation, and whether a pair is (2 i, 2 i + 1) instead of (i, i + head_dim / 2)."""

    theta: float
    interleaved: bool


@dataclass(frozen=True)
class Layout:
    """``n_key``, ``n_value``: channels of K and of V in a row of all heads, 0 for a part that is not coded. ``rope`` None: not rotated."""

    n_key: int
    n_value: int
    head_dim: int
    dtype: KvDtype
    rope: Rope | None


class HeadGroup:
    """Statistics and rows of some heads. ``keys``, ``values``: which channels of a row of all heads, K in RoPE pairs."""

    def __init__(self, layout: Layout, start: int, end: int, spreads: npt.NDArray[np.int8]) -> None:
        """``spreads`` [n_key + n_value]: log2 of each channel's nominal spread."""
        self.keys = _paired(layout, np.arange(start, min(end, layout.n_key)))
        self.values = np.arange(start, min(end, layout.n_value))
        self.columns = np.concatenate([self.keys, self.values + layout.n_key])
        n = len(self.columns)
        self.n_pair = len(self.keys) // 2 if layout.rope is not None else 0
        self.bits = MANTISSA_BITS[layout.dtype]
        self.scales = _UNIT_POWERS[layout.dtype] + NOMINAL_BITS - spreads[self.columns].astype(np.int64)
        self.words = np.empty((0, n), dtype=np.uint16)
        self.rows = np.empty((0, n), dtype=np.int32)
        self.moments, self.near_moments, self.sums = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64), np.zeros(n, np.int64)
        self.counts = [0, 0]
        self.plain, self.near = _blank(n), _blank(n)
        self.copy_inflation = np.array([INFLATION_ONE], dtype=np.int64)

    def reserve(self, n_rows: int) -> None:
        """Room for ``n_rows`` rows."""
        if n_rows > len(self.words):
            n_more = max(n_rows, len(self.words) * 5 // 4) - len(self.words)
            self.words = np.concatenate([self.words, np.empty((n_more, self.words.shape[1]), dtype=np.uint16)])
            self.rows = np.concatenate([self.rows, np.empty((n_more, self.rows.shape[1]), dtype=np.int32)])

    def segment(self, first: int, reference: I64, copied: U8, cos: I64, sin: I64) -> Rows:
        return Rows(self.words, self.rows, first, reference, copied, cos, sin, self.scales, len(self.keys), self.n_pair, self.bits)

    def learn(self, rows: Rows) -> None:
        n_plain, n_near = add_products(rows, self.moments, self.sums, self.near_moments)
        self.counts = [self.counts[0] + n_plain, self.counts[1] + n_near]

    def refit(self) -> None:
        work = np.empty_like(self.moments)
        for moments, sums, count, predictor in (
            (self.moments, self.sums, self.counts[0], self.plain),
            (self.near_moments, np.empty(0, np.int64), self.counts[1], self.near),
        ):
            if count:
                fit(moments, sums, count, PRIOR_TOKENS, work, predictor)


class SequenceModel:
    """Codes one sequence, segment after segment; the encoder's and the decoder's go through the same states."""

    def __init__(self, layout: Layout, spreads: npt.NDArray[np.int8]) -> None:
        self.layout = layout
        self.n_tokens = 0
        self._next_fit = FIRST_FIT_TOKENS
        self._chance = np.array([1 << 13], dtype=np.int64)
        width = max(layout.n_key, layout.n_value)
        step = max(1, GROUP_CHANNELS // layout.head_dim) * layout.head_dim
        self.groups = tuple(HeadGroup(layout, start, start + step, spreads) for start in range(0, width, step))
        rope = layout.rope
        self._phase_steps = phase_steps(rope.theta, layout.head_dim) if rope is not None else np.empty(0, dtype=np.int64)

    def encode(self, words: U16, keys: Coder, values: Coder) -> None:
        """``words`` [n_token, n_key + n_value]: K, then V."""
        self._load(words)
        reference, copied = self._references(len(words))
        self._code(False, reference, copied, keys, values)

    def decode(self, n_token: int, keys: Coder, values: Coder) -> U16 | None:
        """The next ``n_token`` rows, [n_token, n_key + n_value]; None for a damaged stream."""
        first = self.n_tokens
        for group in self.groups:
            group.reserve(first + n_token)
        if not self._code(True, np.zeros(n_token, dtype=np.int64), np.zeros(n_token, dtype=np.uint8), keys, values):
            return None
        words = np.empty((n_token, self.layout.n_key + self.layout.n_value), dtype=np.uint16)
        for group in self.groups:
            words[:, group.columns] = group.words[first : first + n_token]
        return words

    def _load(self, words: U16) -> None:
        for group in self.groups:
            group.reserve(self.n_tokens + len(words))
            group.words[self.n_tokens : self.n_tokens + len(words)] = words[:, group.columns]

    def _code(self, decoding: bool, reference: I64, copied: U8, keys: Coder, values: Coder) -> bool:
        first_coder = keys if self.layout.n_key else values
        done = 0
        while done < len(reference):
            size = min(len(reference) - done, self._next_fit - self.n_tokens)
            part = slice(done, done + size)
            first = self.n_tokens
            if code_references(decoding, first, WINDOW_TOKENS, reference[part], copied[part], self._chance, first_coder) != WHOLE:
                return False
            for group in self.groups:
                rows = group.segment(first, reference[part], copied[part], *self._turns(first, size, group.n_pair))
                code_segment(
                    decoding, rows, group.plain, group.near, keys, values, group.copy_inflation, cdf_table(), odds_table()
                )  # fmt: skip
                group.learn(rows)
            if decoding and any(int(coder.at[0]) > len(coder.words) for coder in (keys, values)):
                return False  # it ran on zeros: the tokens that are left are not worth their time
            done += size
            self.n_tokens += size
            if self.n_tokens == self._next_fit:
                for group in self.groups:
                    group.refit()
                self._next_fit += max(FIRST_FIT_TOKENS, self.n_tokens // REFIT_SHARE)
        return True

    def _turns(self, first: int, n_token: int, n_pair: int) -> tuple[I64, I64]:
        steps = np.tile(self._phase_steps, n_pair // max(1, len(self._phase_steps)))
        cos, sin = np.empty((n_token, len(steps)), dtype=np.int64), np.empty((n_token, len(steps)), dtype=np.int64)
        turns(first, steps, *turn_table(), cos, sin)
        return cos, sin

    def _references(self, n_token: int) -> tuple[I64, U8]:
        """Of each new token: the earlier row nearest to it (-1 for the very first), and whether it is that row again."""
        first, end = self.n_tokens, self.n_tokens + n_token
        none = np.full(n_token, -1, dtype=np.int64)
        for group in self.groups:
            rows = group.segment(first, none, np.zeros(n_token, dtype=np.uint8), *self._turns(first, n_token, group.n_pair))
            take_values(rows)
        start = max(0, first - WINDOW_TOKENS)
        known = np.concatenate([group.rows[start:end] for group in self.groups], axis=1) >> SEARCH_SHIFT
        reference = none
        nearest_rows(known, first - start, WINDOW_TOKENS, reference)
        reference[reference >= 0] += start
        return reference, self._copied(first, reference)

    def _copied(self, first: int, reference: I64) -> U8:
        """V equal, and K within some steps of its format."""
        own, earlier = np.arange(first, first + len(reference)), np.maximum(reference, 0)
        copied = reference >= 0
        for group in self.groups:
            n_key = len(group.keys)
            copied &= (group.words[own, n_key:] == group.words[earlier, n_key:]).all(axis=1)
            keys, others = group.rows[own, :n_key].astype(np.float64), group.rows[earlier, :n_key].astype(np.float64)
            copied &= np.abs(keys - others).sum(axis=1) <= np.abs(keys).sum(axis=1) * 2.0 ** (1 - group.bits) + n_key
        return copied.astype(np.uint8)


def _paired(layout: Layout, channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The channels of whole heads, RoPE pairs side by side."""
    if layout.rope is None or layout.rope.interleaved:
        return channels
    return channels.reshape(-1, 2, layout.head_dim // 2).transpose(0, 2, 1).reshape(-1)


def _blank(n: int) -> Predictor:
    return Predictor(
        np.zeros(n, np.int64),
        np.zeros((n, n), np.int32),
        np.full(n, 1 << (2 * NOMINAL_BITS), np.int64),
        np.full(n, INFLATION_ONE, np.int64),
    )
