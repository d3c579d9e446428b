"""Decoded copies are bounded by blocks, counted, and on the ledger."""

from __future__ import annotations

import numpy as np

from h2o_gate_plugin.kv.decode_cache import DecodeCache
from h2o_gate_plugin.kv.ledger import ResidentLedger

WORDS = np.zeros((4, 2, 8), dtype=np.uint16)  # 128 bytes


def test_k_and_v_of_one_group_share_a_slot() -> None:
    cache = DecodeCache(1, ResidentLedger(1))
    cache.put(1, 0, "k", WORDS)
    cache.put(1, 0, "v", WORDS)
    assert cache.get(1, "k") is WORDS
    assert cache.get(1, "v") is WORDS
    assert (cache.hits, cache.misses) == (2, 0)


def test_the_group_read_longest_ago_makes_room() -> None:
    ledger = ResidentLedger(1)
    cache = DecodeCache(2, ledger)
    for group in (1, 2):
        cache.put(group, 0, "k", WORDS)
    assert cache.get(1, "k") is not None
    cache.put(3, 0, "k", WORDS)
    assert cache.get(2, "k") is None
    assert cache.get(1, "k") is not None
    assert (cache.hits, cache.misses) == (2, 1)
    assert (ledger.resident_bytes, ledger.peak_bytes) == (256, 384)


def test_a_cache_of_no_blocks_keeps_nothing_and_leaves_the_copy_to_whoever_reads_it() -> None:
    ledger = ResidentLedger(1)
    cache = DecodeCache(0, ledger)
    cache.put(1, 0, "k", WORDS)
    assert cache.get(1, "k") is None
    assert (ledger.resident_bytes, ledger.peak_bytes) == (0, 0)


def test_dropped_groups_leave_the_ledger() -> None:
    ledger = ResidentLedger(3)
    cache = DecodeCache(4, ledger)
    cache.put(1, 2, "k", WORDS)
    cache.put(1, 2, "v", WORDS)
    assert ledger.layer_bytes(2) == 256
    cache.drop([1, 7])
    assert ledger.layer_bytes(2) == 0
    assert cache.get(1, "k") is None
