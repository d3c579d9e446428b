"""The KV of one layer: raw fp16 rows, packed groups, and what is known of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.codec import Part
from h2o_gate_plugin.kv.eviction import F64, Indices
from h2o_gate_plugin.kv.half import F32, U16, write_image
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.shapes import KvShape

GROWTH_TOKENS = 16
"""Raw rows are allocated in steps of this; unused ones count as resident."""

PARTS: tuple[Part, Part] = ("k", "v")

PENDING, QUEUED, COVERED, FAILED, PACKED = range(5)
"""Token states: raw; raw with an encode under way; raw and proven to survive the codec; raw for good; only in a packed group."""


@dataclass(frozen=True)
class PackedGroup:
    """Consecutive tokens at the time of packing whose only copy is a K frame and a V frame. ``start``: first absolute position."""

    group: int
    layer: int
    n_tokens: int
    start: int
    frames: Mapping[Part, bytes]

    @property
    def frame_bytes(self) -> int:
        return sum(len(frame) for frame in self.frames.values())


ReadGroup = Callable[[PackedGroup, Part], U16]
"""Packed group → u16 [n_tokens, n_kv_head, head_dim]; raises CodecError."""


Run = tuple[int, int, int]
"""(index of the first token, number of tokens, row of the first one among the raw rows or in its packed group)."""


class LayerKv:
    """Tokens in order, oldest first. Token i is raw, or a row of the packed group ``groups[i]``; order within both is kept.

    ``positions`` int64, ``scores`` float64, ``states`` and ``groups`` (id, where QUEUED or PACKED) are views of the first
    ``n_tokens`` entries. Raw rows: u16 [capacity, n_kv_head, head_dim] for K and for V.
    """

    def __init__(self, layer: int, shape: KvShape, ledger: ResidentLedger) -> None:
        self.layer = layer
        self.n_tokens = 0
        self.seen_tokens = 0
        self.packed: dict[int, PackedGroup] = {}
        self._ledger = ledger
        self._n_raw = 0
        self._row_shape = (shape.n_kv_head, shape.head_dim)
        self._raw: dict[Part, U16] = self._allocate(0)
        self._positions = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float64)
        self._states = np.empty(0, dtype=np.uint8)
        self._groups = np.empty(0, dtype=np.int64)
        self._layout: tuple[tuple[PackedGroup | None, tuple[Run, ...]], ...] | None = None

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        return self._positions[: self.n_tokens]

    @property
    def scores(self) -> F64:
        return self._scores[: self.n_tokens]

    @property
    def states(self) -> npt.NDArray[np.uint8]:
        return self._states[: self.n_tokens]

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        return self._groups[: self.n_tokens]

    def append(self, keys: U16, values: U16) -> None:
        """Add tokens [n_new, n_kv_head, head_dim] at the end, pending, with score 0."""
        n_new = len(keys)
        end, raw_end = self.n_tokens + n_new, self._n_raw + n_new
        if raw_end > len(self._raw["k"]):
            self._grow(-(-raw_end // GROWTH_TOKENS) * GROWTH_TOKENS)
        if end > len(self._positions):
            self._grow_tokens(2 * end)
        self._raw["k"][self._n_raw : raw_end] = keys
        self._raw["v"][self._n_raw : raw_end] = values
        self._positions[self.n_tokens : end] = np.arange(self.seen_tokens, self.seen_tokens + n_new)
        self._scores[self.n_tokens : end] = 0.0
        self._states[self.n_tokens : end] = PENDING
        self._groups[self.n_tokens : end] = 0
        self.n_tokens, self._n_raw = end, raw_end
        self.seen_tokens += n_new

    def write_part(self, part: Part, out: F32, read_group: ReadGroup) -> None:
        """Write the float32 image of all tokens into ``out`` [n_tokens, n_kv_head, head_dim], packed groups through the decoder."""
        raw = self._raw[part]
        if not self.packed:
            write_image(raw[: self._n_raw], out)
            return
        n_laid = n_laid_raw = 0
        for group, runs in self._runs():
            words = raw if group is None else read_group(group, part)
            for at, count, row in runs:
                write_image(words[row : row + count], out[at : at + count])
                n_laid += count
                n_laid_raw += count if group is None else 0
        write_image(raw[n_laid_raw : self._n_raw], out[n_laid:])  # appended since the layout was made

    def raw_words(self, part: Part, indices: Indices) -> U16:
        """A copy of raw tokens: u16 [len(indices), n_kv_head, head_dim]."""
        words: U16 = np.take(self._raw[part], self._raw_rows(indices), axis=0)
        return words

    def pack(self, packed: PackedGroup) -> None:
        """Let ``packed``, whose frames are on the ledger already, replace the raw rows of its group's tokens; release those rows."""
        members = np.flatnonzero((self.groups == packed.group) & (self.states == QUEUED))
        stays_raw = self.states != PACKED
        stays_raw[members] = False
        source = np.flatnonzero(stays_raw)
        rows = self._allocate(len(source) + GROWTH_TOKENS)
        for part in PARTS:
            rows[part][: len(source)] = self.raw_words(part, source)
        self._use(rows, len(source))
        self._states[members] = PACKED
        self.packed[packed.group] = packed
        self._layout = None

    def compact(self, kept: Indices, spare_tokens: int, read_group: ReadGroup) -> tuple[int, ...]:
        """Keep only the tokens at sorted indices ``kept``, in new arrays with room for ``spare_tokens``; return the groups gone.

        A packed group that loses a token is decoded and its survivors become raw and pending; one that keeps all stays packed.
        Raises CodecError, with nothing changed, when a group does not decode.
        """
        stays_packed = self._stays_packed(kept)
        source = kept[~stays_packed]  # the tokens that will be raw
        with ExitStack() as undo:
            rows = self._allocate(len(source) + spare_tokens)
            undo.callback(self._release, rows)
            for part in PARTS:
                self._fill(part, source, rows[part], read_group)
            undo.pop_all()
        whole = set(self.groups[kept[stays_packed]].tolist())
        self._use(rows, len(source))
        self.n_tokens = len(kept)
        for known in (self._positions, self._scores, self._states, self._groups):
            known[: self.n_tokens] = known[kept]
        self._states[: self.n_tokens][(self.states == PACKED) & ~stays_packed] = PENDING
        gone = tuple(group for group in self.packed if group not in whole)
        for group in gone:
            self._ledger.remove(self.layer, self.packed.pop(group).frame_bytes)
        self._layout = None
        return gone

    def _stays_packed(self, kept: Indices) -> npt.NDArray[np.bool_]:
        """Which of the ``kept`` tokens lie in a packed group that keeps all its tokens."""
        stays = np.zeros(len(kept), dtype=np.bool_)
        for packed in self.packed.values():
            mine = (self.groups[kept] == packed.group) & (self.states[kept] == PACKED)
            if np.count_nonzero(mine) == packed.n_tokens:
                stays |= mine
        return stays

    def _fill(self, part: Part, source: Indices, rows: U16, read_group: ReadGroup) -> None:
        """Copy ``source`` tokens, raw or packed, to the first rows of ``rows``."""
        is_raw = self.states[source] != PACKED
        if is_raw.all():
            np.take(self._raw[part], self._raw_rows(source), axis=0, out=rows[: len(source)], mode="clip")  # the default mode buffers
            return
        rows[np.flatnonzero(is_raw)] = self.raw_words(part, source[is_raw])
        for packed in self.packed.values():
            members = np.flatnonzero((self.groups == packed.group) & (self.states == PACKED))
            mine = np.flatnonzero(np.isin(source, members, assume_unique=True))
            if len(mine):
                rows[mine] = read_group(packed, part)[np.searchsorted(members, source[mine])]

    def _raw_rows(self, indices: Indices) -> Indices:
        if not self.packed:
            return indices
        rows: Indices = np.cumsum(self.states != PACKED)[indices] - 1
        return rows

    def _runs(self) -> tuple[tuple[PackedGroup | None, tuple[Run, ...]], ...]:
        """The raw rows (None) and each packed group, with the runs of tokens that lie there; covers the tokens known when made."""
        if self._layout is None:
            owner = np.where(self.states == PACKED, self.groups, 0)
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            runs: dict[int, list[Run]] = {}
            for at, count in zip(starts.tolist(), np.diff(starts, append=self.n_tokens).tolist(), strict=True):
                mine = runs.setdefault(int(owner[at]), [])
                mine.append((at, count, mine[-1][1] + mine[-1][2] if mine else 0))
            self._layout = tuple((self.packed[group] if group else None, tuple(mine)) for group, mine in runs.items())
        return self._layout

    def _grow(self, capacity: int) -> None:
        grown = self._allocate(capacity)
        for part, rows in self._raw.items():
            grown[part][: self._n_raw] = rows[: self._n_raw]
        self._use(grown, self._n_raw)

    def _grow_tokens(self, capacity: int) -> None:
        self._positions, self._scores, self._states, self._groups = (
            np.concatenate([known, np.empty(capacity - len(known), dtype=known.dtype)])
            for known in (self._positions, self._scores, self._states, self._groups)
        )

    def _allocate(self, capacity: int) -> dict[Part, U16]:
        rows: dict[Part, U16] = {part: np.empty((capacity, *self._row_shape), dtype=np.uint16) for part in PARTS}
        self._ledger.add(self.layer, sum(array.nbytes for array in rows.values()))
        return rows

    def _use(self, rows: dict[Part, U16], n_raw: int) -> None:
        self._release(self._raw)
        self._raw, self._n_raw = rows, n_raw

    def _release(self, rows: dict[Part, U16]) -> None:
        self._ledger.remove(self.layer, sum(array.nbytes for array in rows.values()))
