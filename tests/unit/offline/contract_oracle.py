"""The contract's offline arithmetic in plain loops, straight from its prose: what the evaluator's totals are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from h2o_gate_plugin.kv.codec import U16, Part
from h2o_gate_plugin.kv.dump import DumpEntry, read_dump, read_tensor
from h2o_gate_plugin.offline.result import OfflineResult
from h2o_gate_plugin.offline.settings import EvaluatorSettings

Rows = list[list[list[int]]]
"""``[n_seq][n_kv_head][head_dim]`` bytes of one plane."""

Totals = tuple[int, int, int, int]
"""Raw K, compressed K, raw V, compressed V, in bytes."""


def zstd_size(payload: list[int], settings: EvaluatorSettings) -> int:
    if settings.bitshuffle:
        bits = "".join(f"{byte:08b}" for byte in payload)
        planes = "".join(bits[bit::8] for bit in range(8))
        payload = list(int(planes, 2).to_bytes(len(payload), "big"))
    return len(zstandard.ZstdCompressor(level=settings.zstd_level).compress(bytes(payload)))


def residual(rows: Rows, token: int, head: int, channel: int, name: str) -> int:
    def pair(at: int) -> int:
        value = rows[at][head][channel]
        return value - rows[at][head][channel - 1] if name.startswith("pair") and channel % 2 else value

    if token == 0 or name in ("raw", "pair_delta"):
        return pair(token) % 256
    if name == "xor_seq":
        return rows[token][head][channel] ^ rows[token - 1][head][channel]
    return (pair(token) - pair(token - 1)) % 256


def transformed(rows: Rows, name: str) -> list[int]:
    return [residual(rows, t, h, c, name) for t in range(len(rows)) for h in range(len(rows[0])) for c in range(len(rows[0][0]))]


def plane_size(rows: Rows, names: tuple[str, ...], settings: EvaluatorSettings) -> int:
    joined: list[int] = []
    n_blocks = 0
    for start in range(0, len(rows), settings.adaptive_block_seq):
        block = rows[start : start + settings.adaptive_block_seq]
        candidates = [transformed(block, name) for name in names]
        sizes = [zstd_size(candidate, settings) for candidate in candidates]
        joined += candidates[sizes.index(min(sizes))]
        n_blocks += 1
    return zstd_size(joined, settings) + n_blocks + 8


def tensor_size(tensor: U16, part: Part, settings: EvaluatorSettings) -> int:
    high: Rows = (tensor >> 8).tolist()
    low: Rows = (tensor & 0xFF).tolist()
    if settings.codec_mode == "legacy":
        return zstd_size(transformed(high, "delta_seq"), settings) + zstd_size(transformed(low, "raw"), settings)
    names = (settings.k_hi_predictors, settings.k_lo_predictors) if part == "k" else (settings.v_hi_predictors, settings.v_lo_predictors)
    return plane_size(high, names[0], settings) + plane_size(low, names[1], settings)


def contract_totals(folder: Path, settings: EvaluatorSettings) -> Totals:
    groups: dict[Any, list[DumpEntry]] = {}
    for index, entry in enumerate(read_dump(folder).entries):
        if settings.selects_layer(entry.layer):
            key = (entry.run_id, entry.layer, entry.kv_heads, entry.head_dim, entry.stage if settings.aggregate_by_stage else None)
            groups.setdefault(key if settings.entry_mode in ("aggregate", "chunked_grouped") else index, []).append(entry)
    totals: list[int] = []
    parts: tuple[Part, ...] = ("k", "v")
    for part in parts:
        raw = compressed = 0
        for group in groups.values():
            ordered = sorted(group, key=lambda entry: (entry.seq_start, entry.seq_len))
            joined = np.concatenate([read_tensor(entry, part) for entry in ordered])
            raw += joined.size * 2
            if settings.entry_mode in ("chunked", "chunked_grouped"):
                step = settings.online_chunk_seq
                chunks = [joined[start : start + step] for start in range(0, len(joined), step)]
                compressed += sum(tensor_size(chunk, part, settings) + settings.online_framing_bytes for chunk in chunks)
            else:
                compressed += tensor_size(joined, part, settings)
                compressed += 4 + 4 * len(group) if settings.entry_mode == "aggregate" else 0
        totals += [raw, compressed]
    return totals[0], totals[1], totals[2], totals[3]


def totals_of(result: OfflineResult) -> Totals:
    return result.k.raw_bytes, result.k.compressed_bytes, result.v.raw_bytes, result.v.compressed_bytes
