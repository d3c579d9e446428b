"""The offline evaluator's result and its two renderings: the contract's result JSON, and markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.offline.layer_table import layers_markdown
from h2o_gate_plugin.offline.layers import AboveBound, LayerRow, warning_lines
from h2o_gate_plugin.offline.settings import EvaluatorSettings

MOST_NAMED = 20
"""Run ids, and accounting errors, that are told one by one; a dump may have thousands. The JSON has them all."""


@dataclass(frozen=True)
class TensorTotals:
    """Sums over all K or all V. ``compressed_bytes`` counts proven blobs and ``framing_bytes``; modes are blocks per predictor."""

    raw_bytes: int
    compressed_bytes: int
    framing_bytes: int
    hi_mode_counts: Mapping[str, int]
    lo_mode_counts: Mapping[str, int]

    @property
    def lossless_ratio(self) -> float:
        """Raw bytes / compressed bytes."""
        return self.raw_bytes / self.compressed_bytes


@dataclass(frozen=True)
class OfflineResult:
    """``total_entries`` = ``filtered_entries`` + ``selected_entries`` (all their bytes are counted) + ``skipped_entries`` (none is)."""

    dump_dir: Path
    settings: EvaluatorSettings
    k: TensorTotals
    v: TensorTotals
    total_entries: int
    filtered_entries: int
    selected_entries: int
    skipped_entries: int
    skip_reasons: Mapping[str, int]
    selected_layers: tuple[int, ...]
    selected_dumps: tuple[str, ...]
    selected_groups: int
    selected_chunks: int
    overlapping_entries: int
    dtypes: tuple[str, ...]
    layers: tuple[LayerRow, ...]
    above_bound: tuple[AboveBound, ...]

    @property
    def raw_bytes(self) -> int:
        return self.k.raw_bytes + self.v.raw_bytes

    @property
    def compressed_bytes(self) -> int:
        return self.k.compressed_bytes + self.v.compressed_bytes

    @property
    def framing_bytes(self) -> int:
        return self.k.framing_bytes + self.v.framing_bytes

    @property
    def lossless_ratio(self) -> float:
        """Raw bytes / compressed bytes over K and V: weighted by bytes, no mean of ratios."""
        return self.raw_bytes / self.compressed_bytes

    @property
    def warnings(self) -> tuple[str, ...]:
        """Accounting errors, a line each and one for those beyond `MOST_NAMED`; none in an honest result."""
        lines = warning_lines(self.layers, self.above_bound)
        more = len(lines) - MOST_NAMED
        return lines if more <= 0 else (*lines[:MOST_NAMED], f"and {more} more of the kind; the JSON result has them all (above_bound)")

    def to_json(self) -> dict[str, Any]:
        """The contract's result keys and every parameter; ``weighted_…`` is the same byte-weighted ratio under the seed's other name."""
        document: dict[str, Any] = {"dump_dir": str(self.dump_dir)}
        document |= _totals("", self.raw_bytes, self.compressed_bytes, self.framing_bytes)
        for part, totals in (("k", self.k), ("v", self.v)):
            document |= _totals(f"{part}_", totals.raw_bytes, totals.compressed_bytes, totals.framing_bytes)
            document[f"{part}_hi_mode_counts"] = dict(totals.hi_mode_counts)
            document[f"{part}_lo_mode_counts"] = dict(totals.lo_mode_counts)
        counts = ("total_entries", "filtered_entries", "selected_entries", "skipped_entries", "selected_groups", "selected_chunks")
        document |= {name: getattr(self, name) for name in (*counts, "overlapping_entries")}
        document |= {"skip_reasons": dict(self.skip_reasons), "selected_layers": list(self.selected_layers)}
        document["selected_dumps"] = list(self.selected_dumps)
        document["dtypes"] = list(self.dtypes)
        document["layers"] = [row.to_json() for row in self.layers]
        document["above_bound"] = [asdict(unit) for unit in self.above_bound]
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.settings).items()}
        return document | settings

    def _dtype_words(self) -> str:
        return ", ".join("fp32 rounded to fp16" if dtype == "fp32" else dtype for dtype in self.dtypes)

    def to_markdown(self) -> str:
        """Totals, what was counted, why entries were skipped, and the parameters."""
        lines = [f"# Offline lossless evaluation ({self._dtype_words()})", "", f"Dump: `{self.dump_dir}`", ""]
        lines += [line for warning in self.warnings for line in (f"**WARNING** {warning}", "")]
        lines += ["| tensor | raw bytes | compressed bytes | framing bytes | ratio |", "|---|---:|---:|---:|---:|"]
        lines += [_row("K", self.k), _row("V", self.v)]
        lines += [f"| K and V | {self.raw_bytes} | {self.compressed_bytes} | {self.framing_bytes} | {self.lossless_ratio:.4f} |", ""]
        document = self.to_json()
        shown = ("lossless_ratio", "selected_layers", "selected_dumps", "selected_entries", "filtered_entries", "skipped_entries", "dtypes")
        counted = {**document, "selected_dumps": _named(self.selected_dumps)}
        lines += [
            f"- {key}: {counted[key]}" for key in (*shown, "skip_reasons", "selected_groups", "selected_chunks", "overlapping_entries")
        ]
        lines += ["", "## Layers", "", *layers_markdown(self.layers)]
        lines += ["", "## Predictors (blocks)", ""]
        lines += [f"- {key}: {document[key]}" for key in document if key.endswith("_mode_counts")]
        lines += ["", "## Parameters", ""]
        lines += [f"- {key}: {document[key]}" for key in asdict(self.settings)]
        return "\n".join(lines) + "\n"


def _named(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMED
    return f"{list(names[:MOST_NAMED])}" + (f" and {more} more" if more > 0 else "")


def _totals(prefix: str, raw_bytes: int, compressed_bytes: int, framing_bytes: int) -> dict[str, Any]:
    ratio = raw_bytes / compressed_bytes
    return {
        f"{prefix}raw_bytes": raw_bytes,
        f"{prefix}compressed_bytes": compressed_bytes,
        f"{prefix}framing_bytes": framing_bytes,
        f"{prefix}lossless_ratio": ratio,
        f"{prefix}weighted_lossless_ratio": ratio,
    }


def _row(label: str, totals: TensorTotals) -> str:
    return f"| {label} | {totals.raw_bytes} | {totals.compressed_bytes} | {totals.framing_bytes} | {totals.lossless_ratio:.4f} |"
