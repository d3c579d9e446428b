"""A plain folder of K and V tensors, as any engine can write one: .npy or .safetensors files, no meta files.

A tensor's name says its layer and part (`tensor_names`); the folder that its file lies in is its run. K and V of one run and layer are one
entry, from token 0 on, stage prefill. A tensor that is no part of such a pair is skipped and counted by reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.kv.dump import Dump, DumpEntry, EntryError, SkippedEntry
from h2o_gate_plugin.kv.planes import U16, Part
from h2o_gate_plugin.offline.settings import Layout, WordDtype
from h2o_gate_plugin.offline.tensor_files import TensorPlace, read_places, read_words, token_shape
from h2o_gate_plugin.offline.tensor_names import EXAMPLES, TensorName, parse_tensor_name
from h2o_gate_plugin.outside_file import inside

SUFFIXES = (".npy", ".safetensors")


@dataclass(frozen=True)
class TensorEntry(DumpEntry):
    """An entry whose K and V lie in tensor files; ``meta_path`` is the file of K."""

    k_place: TensorPlace
    v_place: TensorPlace
    layout: Layout

    def words(self, part: Part, strict_fp16: bool) -> U16:
        return read_words(self.k_place if part == "k" else self.v_place, self.dtype, self.layout, strict_fp16)


@dataclass(frozen=True)
class _Named:
    """A tensor whose name is understood."""

    run_id: str
    name: TensorName
    place: TensorPlace


def tensor_paths(folder: Path) -> tuple[Path, ...]:
    """The tensor files below ``folder``, in path order."""
    return tuple(sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and not path.is_dir()))


def read_tensor_folder(folder: Path, layout: Layout | None, dtype: WordDtype | None) -> Dump:
    """List the entries; of the files, headers alone are read. ``dtype``: what 16-bit words are whose file and name do not say it.

    Raises DumpError when no tensor has a name that is understood, ConfigError when there are tensors and no ``layout``.
    """
    skipped: list[SkippedEntry] = []
    named: dict[tuple[str, int], dict[Part, list[_Named]]] = {}
    for found in _named_tensors(folder, skipped):
        named.setdefault((found.run_id, found.name.layer), {"k": [], "v": []})[found.name.part].append(found)
    if not named:
        unreadable = next((skip for skip in skipped if skip.reason != "unknown_name"), None)
        if unreadable is not None:
            raise DumpError(unreadable.message)
        raise DumpError(f"{folder}: tensors: expected names like {EXAMPLES}, got none among {len(skipped)} tensors; rename them")
    if layout is None:
        raise _no_layout(next(each for parts in named.values() for listed in parts.values() for each in listed).place)
    entries: list[DumpEntry] = []
    for (run_id, layer), parts in sorted(named.items()):
        try:
            entries.append(_entry(run_id, layer, parts, layout, dtype))
        except EntryError as err:
            skipped.append(SkippedEntry(err.reason, str(err)))
    return Dump(folder, tuple(entries), tuple(skipped))


def _named_tensors(folder: Path, skipped: list[SkippedEntry]) -> Iterator[_Named]:
    """Every tensor with a name that is understood; the others, and files that cannot be read, go to ``skipped``."""
    root = folder.resolve()
    for path in tensor_paths(folder):
        try:
            inside(root, str(path.relative_to(folder)))
        except ValueError:
            skipped.append(SkippedEntry("unsafe_path", f"{path}: file: expected one inside {root}, got a link out of it; copy the file"))
            continue
        try:
            places = read_places(path)
        except EntryError as err:
            skipped.append(SkippedEntry(err.reason, str(err)))
            continue
        run_id = root.name if path.parent == folder else path.parent.relative_to(folder).as_posix()
        for place in places:
            name = parse_tensor_name(place.name)
            if name is None:
                message = f"{place.label}: name: expected one like {EXAMPLES}, got {place.name!r}; rename the tensor"
                skipped.append(SkippedEntry("unknown_name", message))
            else:
                yield _Named(run_id, name, place)


def _entry(run_id: str, layer: int, parts: Mapping[Part, list[_Named]], layout: Layout, dtype: WordDtype | None) -> TensorEntry:
    """Raises EntryError: ``missing_partner``, ``duplicate_tensor``, ``unsupported_dtype``, ``unsupported_shape`` or ``shape_mismatch``."""
    both: tuple[Part, Part] = ("k", "v")
    for part in both:
        if not parts[part]:
            label = next(iter(parts["k"] + parts["v"])).place.label
            raise EntryError("missing_partner", f"{label}: layer {layer}: expected {part.upper()} beside it, got none; export both")
        if len(parts[part]) > 1:
            one, again = (each.place.label for each in parts[part][:2])
            raise EntryError("duplicate_tensor", f"{again}: layer {layer}: expected one {part.upper()}, got another in {one}; keep one")
    k, v = parts["k"][0], parts["v"][0]
    k_dtype, v_dtype = _dtype(k, dtype), _dtype(v, dtype)
    if k_dtype != v_dtype:
        raise EntryError("unsupported_dtype", f"{v.place.label}: dtype: expected that of K, {k_dtype}, got {v_dtype}; export both alike")
    shape, v_shape = token_shape(k.place, layout), token_shape(v.place, layout)
    if shape != v_shape:
        raise EntryError(
            "shape_mismatch", f"{v.place.label}: shape: expected that of K, {k.place.shape}, got {v.place.shape}; export both alike"
        )
    n_seq, n_kv_head, head_dim = shape
    bytes_per_elem = 4 if k_dtype == "fp32" else 2
    return TensorEntry(
        k.place.path, run_id, layer, "prefill", 0, n_seq, n_kv_head, head_dim, k_dtype, bytes_per_elem, k.place.path, v.place.path,
        k.place, v.place, layout,
    )  # fmt: skip


def _dtype(named: _Named, dtype: WordDtype | None) -> str:
    stored = named.place.dtype
    if stored == "words":
        said = named.name.dtype or dtype
        if said is None:
            raise EntryError(
                "unsupported_dtype",
                f"{named.place.label}: dtype: expected words of a known format, got 16-bit words; pass --dtype bf16 or fp16, or end "
                "the name in _bf16",
            )
        return said
    if stored not in ("fp16", "bf16", "fp32"):
        raise EntryError("unsupported_dtype", f"{named.place.label}: dtype: expected fp16, bf16 or fp32, got {stored}; convert it")
    return stored


def _no_layout(place: TensorPlace) -> ConfigError:
    return ConfigError(
        f"offline: --layout: expected seq_head_dim or head_seq_dim for a folder of tensors, got none and shape {place.shape} in "
        f"{place.label}; say which ([tokens, heads, channels], or Hugging Face's [1, heads, tokens, channels])"
    )
