"""Decoded copies of packed groups, the least recently read dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from h2o_gate_plugin.kv.codec import Part
from h2o_gate_plugin.kv.ledger import ResidentLedger
from h2o_gate_plugin.kv.words import U16


class DecodeCache:
    """Holds the decoded K, V or both of at most ``max_blocks`` groups; each copy is on the ledger under its layer."""

    def __init__(self, max_blocks: int, ledger: ResidentLedger) -> None:
        self._max_blocks, self._ledger = max_blocks, ledger
        self._blocks: OrderedDict[int, tuple[int, dict[Part, U16]]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, group: int, part: Part) -> U16 | None:
        """The copy, or None; counts a hit or a miss."""
        if group in self._blocks:
            self._blocks.move_to_end(group)
            words = self._blocks[group][1].get(part)
            if words is not None:
                self.hits += 1
                return words
        self.misses += 1
        return None

    def put(self, group: int, layer: int, part: Part, words: U16) -> None:
        """Keep a copy that is not there yet, in place of the group read longest ago when there is no room; none where none may be kept."""
        if not self._max_blocks:
            return
        self._ledger.add(layer, words.nbytes)
        self._blocks.setdefault(group, (layer, {}))[1][part] = words
        self._blocks.move_to_end(group)
        if len(self._blocks) > self._max_blocks:
            self.drop([next(iter(self._blocks))])

    def drop(self, groups: Iterable[int]) -> None:
        for group in groups:
            layer, copies = self._blocks.pop(group, (0, {}))
            self._ledger.remove(layer, sum(words.nbytes for words in copies.values()))
