"""The layers of an offline result as a markdown table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from h2o_gate_plugin.offline.layers import LayerRow

_MARKDOWN_COLUMNS = (
    "layer", "part", "raw bytes", "compressed bytes", "ratio", "high plane", "low plane", "order-0", "bound", "% of bound", "zeros",
    "repeated rows", "predictors high / low (blocks)",
)  # fmt: skip

_NOTE = (
    "Ratios are raw / compressed bytes. order-0: what one code table per byte plane of the words would give, without predictors. bound: no "
    "honest payload of these predictors' residuals comes out above it, repeats included; n/a where the codec has none. repeated rows: "
    "tokens whose row equals an earlier one."
)


def layers_markdown(rows: tuple[LayerRow, ...]) -> tuple[str, ...]:
    """The lines of the table, and of what its columns mean."""
    head = f"| {' | '.join(_MARKDOWN_COLUMNS)} |"
    ruler = "|---:|---|" + "---:|" * (len(_MARKDOWN_COLUMNS) - 3) + "---|"
    return head, ruler, *(_markdown_row(row) for row in rows), "", _NOTE


def layers_csv(rows: tuple[LayerRow, ...]) -> str:
    """One line per row under the names of the result JSON; predictors as ``name:blocks`` separated by ``;``, nothing where None."""
    text = io.StringIO()
    documents = [row.to_json() for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(documents[0]), lineterminator="\n")
    writer.writeheader()
    for document in documents:
        writer.writerow({key: _blocks(value, ";") if isinstance(value, Mapping) else value for key, value in document.items()})
    return text.getvalue()


def _markdown_row(row: LayerRow) -> str:
    sums, stats = row.sums, row.sums.stats
    bound = f"{_fixed(row.bound_ratio)} exceeded" if row.above_bound else _fixed(row.bound_ratio)
    predictors = f"{_blocks(sums.hi_modes, ' ')} / {_blocks(sums.lo_modes, ' ')}" if sums.hi_modes or sums.lo_modes else "n/a"
    cells = (
        str(row.layer), {"k": "K", "v": "V", "kv": "K and V"}[row.part], str(sums.raw_bytes), str(sums.compressed_bytes),
        _fixed(sums.lossless_ratio), _fixed(row.hi_ratio), _fixed(row.lo_ratio), _fixed(stats.order0_ratio), bound,
        _percent(row.bound_share), _percent(stats.zero_share), _percent(stats.duplicate_row_share), predictors,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _fixed(ratio: float | None) -> str:
    return "n/a" if ratio is None else f"{ratio:.4f}"


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"


def _blocks(modes: Mapping[str, int], separator: str) -> str:
    return separator.join(f"{name}:{count}" for name, count in modes.items())
