"""The offline evaluator as one first writes it from the llm_bench contract: numpy and zstandard, one thread, one tensor after the other.

The peer of `evaluator.py`. It shares no code with the package but the listing of the dump. With ``proof`` every counted blob is decoded
and compared, as the package does; without it sizes are trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from h2o_gate_plugin.kv.dump import DumpEntry, read_dump
from h2o_gate_plugin.offline.settings import EvaluatorSettings

Array = np.ndarray[Any, Any]


def delta_seq(block: Array) -> Array:
    out = block.copy()
    out[1:] = block[1:] - block[:-1]
    return out


def xor_seq(block: Array) -> Array:
    out = block.copy()
    out[1:] = block[1:] ^ block[:-1]
    return out


def pair_delta(block: Array) -> Array:
    out = block.copy()
    pairs = block.shape[2] // 2 * 2
    out[:, :, 1:pairs:2] = block[:, :, 1:pairs:2] - block[:, :, 0:pairs:2]
    return out


def undo_delta_seq(block: Array) -> Array:
    return np.cumsum(block, axis=0, dtype=np.uint8)


def undo_xor_seq(block: Array) -> Array:
    return np.bitwise_xor.accumulate(block, axis=0)


def undo_pair_delta(block: Array) -> Array:
    out = block.copy()
    pairs = block.shape[2] // 2 * 2
    out[:, :, 1:pairs:2] = block[:, :, 1:pairs:2] + block[:, :, 0:pairs:2]
    return out


PREDICTORS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "raw": (lambda block: block, lambda block: block),
    "delta_seq": (delta_seq, undo_delta_seq),
    "xor_seq": (xor_seq, undo_xor_seq),
    "pair_delta": (pair_delta, undo_pair_delta),
    "pair_delta_delta_seq": (lambda block: delta_seq(pair_delta(block)), lambda block: undo_pair_delta(undo_delta_seq(block))),
}


class Peer:
    """Totals as ``(raw bytes of K, compressed bytes of K, the same of V)``."""

    def __init__(self, settings: EvaluatorSettings, proof: bool) -> None:
        self._settings, self._proof = settings, proof
        self._compressor = zstandard.ZstdCompressor(level=settings.zstd_level)
        self._decompressor = zstandard.ZstdDecompressor()

    def totals(self, folder: Path) -> tuple[int, int, int, int]:
        settings = self._settings
        grouped = settings.entry_mode in ("aggregate", "chunked_grouped")
        groups: dict[Any, list[DumpEntry]] = {}
        for number, entry in enumerate(read_dump(folder).entries):
            if settings.selects_layer(entry.layer) and settings.stage in (entry.stage, "both"):
                stage = entry.stage if settings.aggregate_by_stage else ""
                key = (entry.run_id, entry.layer, entry.kv_heads, entry.head_dim, stage) if grouped else number
                groups.setdefault(key, []).append(entry)
        sums = {"k": [0, 0], "v": [0, 0]}
        for group in groups.values():
            group.sort(key=lambda entry: entry.seq_start)
            for part in ("k", "v"):
                tensor = np.concatenate([self._read(entry, part) for entry in group])
                sums[part][0] += tensor.nbytes
                sums[part][1] += self._tensor_bytes(tensor, part, len(group))
        return sums["k"][0], sums["k"][1], sums["v"][0], sums["v"][1]

    def _read(self, entry: DumpEntry, part: str) -> Array:
        path = entry.k_path if part == "k" else entry.v_path
        data = np.fromfile(path, dtype="<f2" if entry.bytes_per_elem == 2 else "<f4").astype(np.float16)
        return data.view(np.uint16).reshape(entry.seq_len, entry.kv_heads, entry.head_dim)

    def _tensor_bytes(self, tensor: Array, part: str, n_entries: int) -> int:
        settings = self._settings
        if settings.entry_mode in ("chunked", "chunked_grouped"):
            step = settings.online_chunk_seq
            chunks = [tensor[start : start + step] for start in range(0, len(tensor), step)]
            return sum(self._chunk_bytes(chunk, part) + settings.online_framing_bytes for chunk in chunks)
        return self._chunk_bytes(tensor, part) + (4 + 4 * n_entries if settings.entry_mode == "aggregate" else 0)

    def _chunk_bytes(self, chunk: Array, part: str) -> int:
        high, low = (chunk >> 8).astype(np.uint8), (chunk & 0xFF).astype(np.uint8)
        if self._settings.codec_mode == "legacy":
            step = max(1, len(chunk))
            sizes, planes = zip(*(self._plane(plane, (name,), step, 0) for plane, name in ((high, "delta_seq"), (low, "raw"))), strict=True)
        else:
            names = {"k": (self._settings.k_hi_predictors, self._settings.k_lo_predictors),
                     "v": (self._settings.v_hi_predictors, self._settings.v_lo_predictors)}[part]  # fmt: skip
            step = self._settings.adaptive_block_seq
            sizes, planes = zip(*(self._plane(plane, tried, step, 8) for plane, tried in zip((high, low), names, strict=True)), strict=True)
        if self._proof:
            back = planes[0].astype(np.uint16) << 8 | planes[1]
            if not np.array_equal(back, chunk):
                raise ValueError("a blob does not decode to what was encoded")
        return sum(sizes)

    def _plane(self, plane: Array, names: tuple[str, ...], step: int, header_bytes: int) -> tuple[int, Array]:
        """Bytes of the plane, and the plane as its blob decodes (as it is without proof)."""
        modes, chosen = [], []
        for start in range(0, len(plane), step):
            block = plane[start : start + step]
            candidates = [PREDICTORS[name][0](block) for name in names]
            sizes = [len(self._compress(candidate)) for candidate in candidates]
            best = sizes.index(min(sizes))
            modes.append(names[best])
            chosen.append(candidates[best])
        frame = self._compress(np.concatenate(chosen))
        size = len(frame) + (len(modes) + header_bytes if header_bytes else 0)
        return size, self._decoded(frame, plane.shape, modes, step) if self._proof else plane

    def _decoded(self, frame: bytes, shape: tuple[int, ...], modes: list[str], step: int) -> Array:
        data = np.frombuffer(self._decompressor.decompress(frame), dtype=np.uint8)
        if self._settings.bitshuffle:
            data = np.packbits(np.unpackbits(data).reshape(8, -1).T)
        plane = data.reshape(shape)
        blocks = (plane[number * step : (number + 1) * step] for number in range(len(modes)))
        return np.concatenate([PREDICTORS[mode][1](block) for mode, block in zip(modes, blocks, strict=True)])

    def _compress(self, block: Array) -> bytes:
        data = np.ascontiguousarray(block)
        if self._settings.bitshuffle:
            data = np.packbits(np.unpackbits(data.reshape(-1)).reshape(-1, 8).T)
        return self._compressor.compress(data.tobytes())
