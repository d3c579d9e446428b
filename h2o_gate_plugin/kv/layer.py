"""The KV of one layer: raw fp16 rows, packed groups, and what is known of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.kv.codec import Part
from h2o_gate_plugin.kv.eviction import F64, Indices, run_count
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.shapes import KvShape
from h2o_gate_plugin.kv.words import F32, U16, Typed, gather_rows, image, typed, write_rounded

GROWTH_TOKENS = 16
GROWTH_SHARE = 16
"""Raw rows grow by this many, or by one in so many of those there; unused ones count as resident."""

PARTS: tuple[Part, Part] = ("k", "v")
PART_NAMES: Mapping[Part, str] = {"k": "keys", "v": "values"}

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


RAW, UNPACKED = range(2)
"""Sources of a run (`attention.Runs`)."""


class LayerKv:
    """Tokens in order, oldest first. Token i is raw, or a row of the packed group ``groups[i]``; order within both is kept.

    ``positions`` int64, ``scores`` float64, ``states`` and ``groups`` (id, where QUEUED or PACKED) are views of the first
    ``n_tokens`` entries. ``position_runs``: runs of consecutive positions, as the last compaction left them; the newest token is never
    evicted, so that later ones extend the last run. Raw rows: u16 [capacity, n_kv_head, head_dim] for K and for V.
    """

    def __init__(self, layer: int, shape: KvShape, ledger: ResidentLedger) -> None:
        self.layer = layer
        self.n_tokens = 0
        self.seen_tokens = 0
        self.position_runs = 1
        self.packed: dict[int, PackedGroup] = {}
        self._ledger = ledger
        self._n_raw = 0
        self._row_shape = (shape.n_kv_head, shape.head_dim)
        self.dtype = shape.dtype
        self._raw: dict[Part, U16] = self._allocate(0)
        self._positions = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float64)
        self._states = np.empty(0, dtype=np.uint8)
        self._groups = np.empty(0, dtype=np.int64)
        self._runs: npt.NDArray[np.int64] | None = None

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

    def append(self, keys: F32, values: F32) -> None:
        """Add tokens, float32 [n_new, n_kv_head, head_dim], rounded once. Raises EngineError where a value has no finite word."""
        row = self.extend(len(keys))
        for part, values_of_part in zip(PARTS, (keys, values), strict=True):
            write_rounded(values_of_part, self.dtype, self._raw[part][row : row + len(keys)], f"kv layer {self.layer}: {PART_NAMES[part]}")

    def extend(self, n_new: int) -> int:
        """Make room for tokens at the end, pending, with score 0; return the first of the raw rows that the caller is to write."""
        start, row = self.n_tokens, self._n_raw
        end, raw_end = start + n_new, row + n_new
        if raw_end > len(self._raw["k"]):
            self._grow(raw_end + max(GROWTH_TOKENS, raw_end // GROWTH_SHARE))
        if end > len(self._positions):
            self._grow_tokens(2 * end)
        if n_new == 1:  # the decode step; slices would take ten times as long
            self._positions[start], self._scores[start], self._states[start], self._groups[start] = self.seen_tokens, 0.0, PENDING, 0
        else:
            self._positions[start:end] = np.arange(self.seen_tokens, self.seen_tokens + n_new)
            self._scores[start:end] = 0.0
            self._states[start:end] = PENDING
            self._groups[start:end] = 0
        self.n_tokens, self._n_raw = end, raw_end
        self.seen_tokens += n_new
        if self._runs is not None:
            if self._runs[-1, 0] == RAW:
                self._runs[-1, 2] += n_new
            else:
                self._runs = None
        return row

    def typed_rows(self, part: Part) -> Typed:
        """All raw rows as a kernel takes them, spare ones included: words [capacity, n_kv_head, head_dim]."""
        return typed(self._raw[part], self.dtype)

    def runs(self) -> npt.NDArray[np.int64]:
        """Where the tokens lie, in order (`attention.Runs`); an UNPACKED run counts rows over all packed groups, in their order."""
        if self._runs is None and not self.packed:
            self._runs = np.array([[RAW, 0, self.n_tokens]], dtype=np.int64)
        if self._runs is None:
            owner = np.where(self.states == PACKED, self.groups, 0)
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            next_row = dict(zip((0, *self.packed), (0, *self._first_rows()), strict=True))
            runs: list[tuple[int, int, int]] = []
            for group, count in zip(owner[starts].tolist(), np.diff(starts, append=self.n_tokens).tolist(), strict=True):
                runs.append((UNPACKED if group else RAW, next_row[group], count))
                next_row[group] += count
            self._runs = np.array(runs, dtype=np.int64).reshape(-1, 3)
        return self._runs

    def unpacked_rows(self, part: Part, read_group: ReadGroup) -> U16:
        """The rows of all packed groups, one after the other: u16 [n_row, n_kv_head, head_dim], for reading only."""
        groups = [read_group(packed, part) for packed in self.packed.values()]
        if len(groups) == 1:
            return groups[0]
        return np.concatenate(groups) if groups else np.empty((0, *self._row_shape), dtype=np.uint16)

    def words(self, part: Part, read_group: ReadGroup) -> U16:
        """A copy of all tokens in order: u16 [n_tokens, n_kv_head, head_dim], packed groups through the decoder."""
        sources = (self._raw[part], self.unpacked_rows(part, read_group))
        pieces = [sources[source][row : row + count] for source, row, count in self.runs().tolist()]
        return np.concatenate(pieces) if pieces else np.empty((0, *self._row_shape), dtype=np.uint16)

    def write_image(self, part: Part, out: F32, read_group: ReadGroup) -> None:
        """Write the float32 image of all tokens into ``out`` [n_tokens, n_kv_head, head_dim], packed groups through the decoder."""
        if self.packed:
            image(self.words(part, read_group), self.dtype, out)
        else:
            image(self._raw[part][: self._n_raw], self.dtype, out)

    def fork(self, shape: KvShape, ledger: ResidentLedger) -> LayerKv:
        """A copy that owns its rows; only where nothing is packed."""
        twin = LayerKv(self.layer, shape, ledger)
        rows = twin.extend(self.n_tokens) + self.n_tokens
        for part in PARTS:
            twin._raw[part][:rows] = self._raw[part][:rows]
        twin.positions[:], twin.scores[:] = self.positions, self.scores
        twin.seen_tokens = self.seen_tokens
        return twin

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
        rows = self._allocate(len(source) + min(GROWTH_TOKENS, len(self._raw["k"]) - self._n_raw))
        for part in PARTS:
            rows[part][: len(source)] = self.raw_words(part, source)
        self._use(rows, len(source))
        self._states[members] = PACKED
        self.packed[packed.group] = packed
        self._runs = None

    def take_apart(self, packed: PackedGroup, read_group: ReadGroup) -> None:
        """Decode a packed group into pending raw rows. Raises CodecError, with nothing changed, when it does not decode."""
        members = (self.groups == packed.group) & (self.states == PACKED)
        source = np.flatnonzero((self.states != PACKED) | members)
        self._use(self._copied(source, 0, read_group), len(source))
        self.states[members] = PENDING
        self._ledger.remove(self.layer, self.packed.pop(packed.group).frame_bytes)
        self._runs = None

    def trim(self) -> None:
        """Give the spare raw rows back."""
        if len(self._raw["k"]) > self._n_raw:
            rows = self._allocate(self._n_raw)
            for part in PARTS:
                rows[part][:] = self._raw[part][: self._n_raw]
            self._use(rows, self._n_raw)

    def compact(self, kept: Indices, spare_tokens: int, read_group: ReadGroup) -> tuple[int, ...]:
        """Keep only the tokens at sorted indices ``kept``, in new arrays with room for ``spare_tokens``; return the groups gone.

        A packed group that loses a token is decoded and its survivors become raw and pending; one that keeps all stays packed.
        Raises CodecError, with nothing changed, when a group does not decode.
        """
        stays_packed = self._stays_packed(kept)
        source = kept[~stays_packed]  # the tokens that will be raw
        rows = self._copied(source, spare_tokens, read_group)
        whole = set(self.groups[kept[stays_packed]].tolist())
        self._use(rows, len(source))
        self.n_tokens = len(kept)
        self.position_runs = run_count(self._positions[kept])
        for known in (self._positions, self._scores, self._states, self._groups):
            known[: self.n_tokens] = known[kept]
        self._states[: self.n_tokens][(self.states == PACKED) & ~stays_packed] = PENDING
        gone = tuple(group for group in self.packed if group not in whole)
        for group in gone:
            self._ledger.remove(self.layer, self.packed.pop(group).frame_bytes)
        self._runs = None
        return gone

    def _stays_packed(self, kept: Indices) -> npt.NDArray[np.bool_]:
        """Which of the ``kept`` tokens lie in a packed group that keeps all its tokens."""
        stays = np.zeros(len(kept), dtype=np.bool_)
        for packed in self.packed.values():
            mine = (self.groups[kept] == packed.group) & (self.states[kept] == PACKED)
            if np.count_nonzero(mine) == packed.n_tokens:
                stays |= mine
        return stays

    def _copied(self, source: Indices, spare_tokens: int, read_group: ReadGroup) -> dict[Part, U16]:
        """New rows that begin with copies of the ``source`` tokens, raw or packed; none are left where that fails."""
        with ExitStack() as undo:
            rows = self._allocate(len(source) + spare_tokens)
            undo.callback(self._release, rows)
            for part in PARTS:
                self._fill(part, source, rows[part], read_group)
            undo.pop_all()
        return rows

    def _fill(self, part: Part, source: Indices, rows: U16, read_group: ReadGroup) -> None:
        """Copy ``source`` tokens, raw or packed, to the first rows of ``rows``."""
        if self.packed:
            gather_rows(self._raw[part], self.unpacked_rows(part, read_group), self.runs(), source, rows)
        else:
            np.take(self._raw[part], source, axis=0, out=rows[: len(source)], mode="clip")  # the default mode buffers

    def _raw_rows(self, indices: Indices) -> Indices:
        if not self.packed:
            return indices
        rows: Indices = np.cumsum(self.states != PACKED)[indices] - 1
        return rows

    def _first_rows(self) -> tuple[int, ...]:
        """Of each packed group, among the unpacked rows."""
        return tuple(accumulate((packed.n_tokens for packed in self.packed.values()), initial=0))[:-1]

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
