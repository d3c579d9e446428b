"""What each layer's K and V came to, beside the entropy bound, and the accounting errors that the bound shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from h2o_gate_plugin.offline.unit import PartSums

RowPart = Literal["k", "v", "kv"]


@dataclass(frozen=True)
class LayerRow:
    """One layer's K, V, or both together. Ratios are raw bytes / compressed bytes; shares are 0 to 1; None where there is no figure."""

    layer: int
    part: RowPart
    sums: PartSums

    @property
    def hi_ratio(self) -> float | None:
        """The high plane's bytes / its bytes in the payloads."""
        return _ratio(self.sums.stats.words, self.sums.hi_bytes)

    @property
    def lo_ratio(self) -> float | None:
        return _ratio(self.sums.stats.words, self.sums.lo_bytes)

    @property
    def bound_ratio(self) -> float | None:
        """The largest ratio that an honest payload can have: bytes of the words that were measured / `order0`'s bound."""
        return _ratio(2 * self.sums.stats.words, self.sums.bound_bytes)

    @property
    def bound_share(self) -> float | None:
        """Ratio / bound ratio."""
        return None if self.bound_ratio is None else self.sums.lossless_ratio / self.bound_ratio

    @property
    def above_bound(self) -> bool:
        """Whether a payload, or the layer's ratio, is above its bound: the accounting is wrong."""
        return self.sums.chunks_above_bound > 0 or (self.bound_share is not None and self.bound_share > 1)

    def to_json(self) -> dict[str, Any]:
        sums, stats = self.sums, self.sums.stats
        return {
            "layer": self.layer,
            "part": self.part,
            "raw_bytes": sums.raw_bytes,
            "compressed_bytes": sums.compressed_bytes,
            "framing_bytes": sums.framing_bytes,
            "lossless_ratio": sums.lossless_ratio,
            "hi_compressed_bytes": sums.hi_bytes,
            "lo_compressed_bytes": sums.lo_bytes,
            "hi_ratio": self.hi_ratio,
            "lo_ratio": self.lo_ratio,
            "hi_entropy_bits": stats.hi_entropy_bits,
            "lo_entropy_bits": stats.lo_entropy_bits,
            "order0_ratio": stats.order0_ratio,
            "bound_bytes": sums.bound_bytes,
            "bound_ratio": self.bound_ratio,
            "bound_share": self.bound_share,
            "zero_share": stats.zero_share,
            "duplicate_row_share": stats.duplicate_row_share,
            "hi_mode_counts": dict(sums.hi_modes),
            "lo_mode_counts": dict(sums.lo_modes),
            "above_bound": self.above_bound,
        }


@dataclass(frozen=True)
class AboveBound:
    """K or V of one unit with payloads smaller than the bound: tokens ``[seq_start, seq_end)``."""

    run_id: str
    layer: int
    part: Literal["k", "v"]
    seq_start: int
    seq_end: int
    raw_bytes: int
    payload_bytes: int
    bound_bytes: int | None


def layer_rows(layers: Mapping[int, tuple[PartSums, PartSums]]) -> tuple[LayerRow, ...]:
    """K, V and both of every layer, in layer order, from its (K, V) sums."""
    return tuple(
        row
        for layer, (k, v) in sorted(layers.items())
        for row in (LayerRow(layer, "k", k), LayerRow(layer, "v", v), LayerRow(layer, "kv", k + v))
    )


def warning_lines(rows: tuple[LayerRow, ...], units: tuple[AboveBound, ...]) -> tuple[str, ...]:
    """One line per unit above its bound, and per layer whose ratio is above it for another reason."""
    of_units = tuple(
        f"{unit.run_id} layer {unit.layer} {unit.part.upper()} tokens {unit.seq_start} to {unit.seq_end}: payload: expected at least "
        f"{unit.bound_bytes} bytes (entropy bound), got {unit.payload_bytes}; an accounting error: do not use the ratio"
        for unit in units
    )
    named = {(unit.layer, unit.part) for unit in units}
    of_rows = tuple(
        f"layer {row.layer} {row.part.upper()}: ratio: expected at most {row.bound_ratio:.4f} (entropy bound), got "
        f"{row.sums.lossless_ratio:.4f} for {row.sums.raw_bytes} raw bytes of {row.sums.stats.words} words measured; an accounting error: "
        "do not use the ratio"
        for row in rows
        if row.above_bound and row.bound_ratio is not None and row.part != "kv" and (row.layer, row.part) not in named
    )
    return of_units + of_rows


def _ratio(raw_bytes: int, compressed_bytes: int | None) -> float | None:
    return raw_bytes / compressed_bytes if compressed_bytes else None
