"""The KV dump of the llm_bench contract ("KV dump"): written by the engine, read by the offline evaluator.

``<folder>/<run_id>/layer_<id>/`` holds ``k_t<s>_<e>.bin``, ``v_t<s>_<e>.bin`` and ``meta_t<s>_<e>.json``. Binaries are little endian,
C order ``[seq][kv_heads][head_dim]``, no header; K is stored after RoPE.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from h2o_gate_plugin.errors import DumpError
from h2o_gate_plugin.kv.planes import U16, Part, checked_tensor
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.outside_file import MIB, inside, read_bytes, read_json

Stage = Literal["prefill", "decode"]
StageFilter = Literal["prefill", "decode", "both"]

LARGEST_META_BYTES = MIB
LARGEST_COUNT = 2**40
"""Of tokens, heads, channels: far beyond any file, and their product is still a number that prints."""
_DTYPE_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


class EntryError(DumpError):
    """One entry that cannot be used; ``reason`` is the word it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class DumpEntry:
    """One meta file: tokens ``[seq_start, seq_start + seq_len)`` of one layer, one stage, one run."""

    meta_path: Path
    run_id: str
    layer: int
    stage: Stage
    seq_start: int
    seq_len: int
    kv_heads: int
    head_dim: int
    dtype: str
    bytes_per_elem: int
    k_path: Path
    v_path: Path

    def words(self, part: Part, strict_fp16: bool) -> U16:
        """K or V as `read_tensor` says; how it is read belongs to the entry, so that other sources can hold theirs otherwise."""
        return read_tensor(self, part, strict_fp16)


@dataclass(frozen=True)
class SkippedEntry:
    """A meta file that is no usable entry: why, as a word to count and as a line to read."""

    reason: str
    message: str


@dataclass(frozen=True)
class Dump:
    """What a folder holds, in path order."""

    folder: Path
    entries: tuple[DumpEntry, ...]
    skipped: tuple[SkippedEntry, ...]


class DumpWriter:
    """Writes the entries of one run.

    ``stage``: which entries are written, the others are passed over. ``max_tokens``: tokens at this position and later are not
    written; None = no limit. Raises DumpError for a run id that is no plain folder name, an unknown stage or a limit below 1.
    """

    def __init__(
        self, folder: Path, run_id: str, stage: StageFilter = "both", max_tokens: int | None = None, dtype: KvDtype = "fp16"
    ) -> None:
        if run_id in ("", ".", "..") or any(character in run_id for character in "/\\\0"):
            raise DumpError(f"{folder}: run id: expected a plain folder name, got {run_id!r}; set MNN_KV_DUMP_RUN_ID to one")
        if stage not in get_args(StageFilter):
            raise DumpError(f"{folder}: stage: expected {', '.join(get_args(StageFilter))}, got {stage!r}; set MNN_KV_DUMP_STAGE to one")
        if max_tokens is not None and max_tokens < 1:
            raise DumpError(
                f"{folder}: max tokens: expected an integer >= 1 (tokens), got {max_tokens}; unset MNN_KV_DUMP_MAX_TOKENS for no limit"
            )
        self._folder = folder / run_id
        self._run_id = run_id
        self._stage = stage
        self._max_tokens = max_tokens
        self._dtype = dtype

    def write(
        self,
        layer: int,
        keys: U16,
        values: U16,
        seq_start: int,
        stage: Stage,
        *,
        quant_key: int = 0,
        quant_value: int = 0,
        flash_attention: int = 0,
        tensor_seq_len: int | None = None,
    ) -> Path | None:
        """Write 16-bit words ``[n_seq, n_kv_head, head_dim]`` of tokens ``seq_start …``; returns the meta path, None when filtered out.

        ``tensor_seq_len``: tokens in the engine's cache after these were added (``add`` is their number); None = up to the last of them.
        Raises DumpError when K and V differ in shape, the folder cannot be written or it holds the entry already (of another run).
        """
        if keys.shape != values.shape:
            raise DumpError(
                f"{self._folder}: layer {layer}: expected K and V of one shape, got {keys.shape} and {values.shape}; check the caller"
            )
        added = len(keys)
        length = added if self._max_tokens is None else min(added, self._max_tokens - seq_start)
        if length <= 0 or self._stage not in (stage, "both"):
            return None
        folder = self._folder / f"layer_{layer}"
        span = f"t{seq_start}_{seq_start + length}"
        meta_path = folder / f"meta_{span}.json"
        meta = {
            "layer_id": layer, "seq_start": seq_start, "seq_len": length, "seq_end_exclusive": seq_start + length,
            "kv_heads": keys.shape[1], "head_dim": keys.shape[2], "bytes_per_elem": 2, "dtype": self._dtype, "stage": stage,
            "run_id": self._run_id, "k_file": f"k_{span}.bin", "v_file": f"v_{span}.bin",
            "quant_key": quant_key, "quant_value": quant_value, "flash_attention": flash_attention, "add": added,
            "tensor_seq_len": seq_start + added if tensor_seq_len is None else tensor_seq_len,
        }  # fmt: skip
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part, tensor in (("k", keys), ("v", values)):
                with (folder / f"{part}_{span}.bin").open("xb") as binary:
                    binary.write(checked_tensor(tensor[:length], f"{folder}: {part}").data)
            partial = meta_path.with_suffix(".json.partial")  # the meta file comes last and whole: an entry that is listed is complete
            partial.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, meta_path)
        except OSError as err:
            got = f"{err.strerror} ({err.filename})"
            raise DumpError(f"{meta_path}: dump: expected a writable folder without this entry, got {got}; set another run id") from err
        return meta_path


def read_dump(folder: Path) -> Dump:
    """List the entries under ``folder`` (one run or many); binaries are not opened.

    Raises DumpError for a missing folder or one without meta files; a single bad meta file is listed in ``skipped``.
    """
    if not folder.is_dir():
        raise DumpError(f"{folder}: dump: expected a folder, got none; pass the folder that MNN_KV_DUMP_DIR named")
    meta_paths = sorted(folder.rglob("meta_*.json"))
    if not meta_paths:
        raise DumpError(f"{folder}: dump: expected meta_t<start>_<end>.json files, got none; run the engine with MNN_KV_DUMP_DIR set")
    entries: list[DumpEntry] = []
    skipped: list[SkippedEntry] = []
    for meta_path in meta_paths:
        try:
            root = folder.resolve()
            entries.append(_read_meta(_inside(root, meta_path, meta_path.name), root))
        except EntryError as err:
            skipped.append(SkippedEntry(err.reason, str(err)))
    return Dump(folder, tuple(entries), tuple(skipped))


def read_tensor(entry: DumpEntry, part: Part, strict_fp16: bool = False) -> U16:
    """K or V of the entry as 16-bit words ``[seq_len, kv_heads, head_dim]``; 4-byte elements are rounded to fp16.

    Raises EntryError: ``missing_file``, ``size_mismatch``, ``unreadable_file``, ``not_fp16`` (4-byte elements under ``strict_fp16``), or
    ``fp16_overflow`` (a finite fp32 value that fp16 cannot hold).
    """
    path = entry.k_path if part == "k" else entry.v_path
    shape = (entry.seq_len, entry.kv_heads, entry.head_dim)
    n_bytes = shape[0] * shape[1] * shape[2] * entry.bytes_per_elem
    try:
        size = path.stat().st_size
        if size != n_bytes:
            raise EntryError("size_mismatch", f"{path}: size: expected {n_bytes} bytes for {shape}, got {size}; dump it again")
        raw = read_bytes(path, n_bytes)
    except FileNotFoundError as err:
        raise EntryError("missing_file", f"{path}: file: expected {n_bytes} bytes, got no file; dump it again") from err
    except OSError as err:
        raise EntryError(
            "unreadable_file", f"{path}: file: expected a readable file, got {err.strerror or str(err)!r}; check its permissions"
        ) from err
    if len(raw) != n_bytes:
        raise EntryError("size_mismatch", f"{path}: size: expected {n_bytes} bytes, got {len(raw)}; it changed while it was read")
    if entry.bytes_per_elem == 2:
        return np.frombuffer(raw, dtype="<u2").reshape(shape).view(np.uint16)
    if strict_fp16:
        raise EntryError("not_fp16", f"{path}: dtype: expected fp16, got fp32 under strict fp16; leave --strict-fp16 out to round it")
    return rounded_to_fp16(np.frombuffer(raw, dtype="<f4").reshape(shape), path)


def rounded_to_fp16(wide: npt.NDArray[np.float32], path: Path) -> U16:
    """The fp16 words of float32 values, same shape. Raises EntryError ``fp16_overflow`` for a finite value that fp16 cannot hold."""
    with np.errstate(over="ignore"):
        narrow = wide.astype("<f2")
    if bool(np.any(np.isinf(narrow) & np.isfinite(wide))):
        raise EntryError("fp16_overflow", f"{path}: values: expected |x| <= 65504 (fp16), got {float(np.abs(wide).max())!r}; dump in fp16")
    return narrow.view(np.uint16)


def _read_meta(meta_path: Path, root: Path) -> DumpEntry:
    """Raises EntryError: ``bad_meta_json``, ``bad_meta``, ``unsupported_dtype`` or ``unsafe_path``."""
    try:
        meta = read_json(meta_path, LARGEST_META_BYTES)
    except (ValueError, OSError) as err:
        raise EntryError("bad_meta_json", f"{meta_path}: meta: expected a JSON object, got {str(err)!r}; dump it again") from err
    if not isinstance(meta, dict):
        raise EntryError("bad_meta_json", f"{meta_path}: meta: expected a JSON object, got {meta!r:.80}; dump it again")
    stage, run_id = _word(meta, "stage", meta_path), _word(meta, "run_id", meta_path)
    if stage not in get_args(Stage):
        raise EntryError("bad_meta", f"{meta_path}: stage: expected prefill or decode, got {stage!r}; dump it again")
    layer, seq_start = (_integer(meta, key, 0, meta_path) for key in ("layer_id", "seq_start"))
    seq_len, kv_heads, head_dim = (_integer(meta, key, 1, meta_path) for key in ("seq_len", "kv_heads", "head_dim"))
    if _integer(meta, "seq_end_exclusive", 1, meta_path) != seq_start + seq_len:
        raise EntryError(
            "bad_meta", f"{meta_path}: seq_end_exclusive: expected {seq_start + seq_len}, got {meta['seq_end_exclusive']}; dump it again"
        )
    dtype, bytes_per_elem = _word(meta, "dtype", meta_path), _integer(meta, "bytes_per_elem", 1, meta_path)
    if _DTYPE_BYTES.get(dtype) != bytes_per_elem:
        got = f"{dtype!r} of {bytes_per_elem} bytes"
        raise EntryError(
            "unsupported_dtype",
            f"{meta_path}: dtype: expected fp16, bf16 (2 bytes) or fp32 (4), got {got}; dump without KV quantization",
        )
    k_path, v_path = (_inside(root, meta_path, _word(meta, key, meta_path)) for key in ("k_file", "v_file"))
    return DumpEntry(
        meta_path, run_id, layer, "prefill" if stage == "prefill" else "decode", seq_start, seq_len, kv_heads, head_dim, dtype,
        bytes_per_elem, k_path, v_path,
    )  # fmt: skip


def _word(meta: dict[str, Any], key: str, meta_path: Path) -> str:
    value = meta.get(key)
    if not isinstance(value, str):
        raise EntryError("bad_meta", f"{meta_path}: {key}: expected a string, got {value!r:.80}; dump it again")
    return value


def _integer(meta: dict[str, Any], key: str, low: int, meta_path: Path) -> int:
    value = meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= LARGEST_COUNT:
        expected = f"an integer >= {low} and <= {LARGEST_COUNT}"
        raise EntryError("bad_meta", f"{meta_path}: {key}: expected {expected}, got {value!r:.80}; dump it again")
    return value


def _inside(root: Path, meta_path: Path, name: str) -> Path:
    """The file that the meta names, links followed; it must lie in the dump."""
    try:
        return inside(root, os.path.join(meta_path.parent.resolve(), name)).resolve()
    except ValueError as err:
        raise EntryError("unsafe_path", f"{meta_path}: file: expected a path inside {root}, got {name!r:.200}; dump it again") from err
