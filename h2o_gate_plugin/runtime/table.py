"""The markdown table of llm_bench, by the contract: header, ruler, one row per instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h2o_gate_plugin.bench_columns import NOT_MEASURED_CELL, Column
from h2o_gate_plugin.runtime.results import BYTES_PER_MIB, Samples, Value, mean_and_sd

WIDTHS = {"mean_sd": 16, "speed": 32, "llm_demo": 26, "bytes": 10, "text": 6, "integer": 6, "number": 8}
"""Least width of a cell by its form, so that rows written at different times line up."""


def header_lines(columns: Sequence[Column]) -> tuple[str, str]:
    """Header and ruler; the ruler of a numeric column ends in ``:``."""
    names = [_aligned(column, column.name) for column in columns]
    rules = ["-" * (_width(column) - 1) + (":" if column.right_aligned else "-") for column in columns]
    return _line(names), _line(rules)


def row_line(columns: Sequence[Column], values: Mapping[str, Value]) -> str:
    return _line([_aligned(column, cell(column, values[column.name])) for column in columns])


def cell(column: Column, value: Any) -> str:
    """One value in the contract's form; ``n/a`` for None."""
    if value is None:
        return NOT_MEASURED_CELL
    if column.form == "mean_sd":
        return _mean_sd(value, column.decimals)
    if column.form == "speed":
        return "<br>".join(_mean_sd(samples, column.decimals) for samples in value)
    if column.form == "number":
        return f"{value:.{column.decimals}f}"
    if column.form == "integer":
        return f"{value:.0f}"
    if column.form == "bytes":
        mib = value / BYTES_PER_MIB
        return f"{mib:.2f} MiB" if mib < 1024 else f"{mib / 1024:.2f} GiB"
    return str(value).replace("|", "&#124;")


def _mean_sd(samples: Samples, decimals: int) -> str:
    mean, sd = mean_and_sd(samples)
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}"


def _width(column: Column) -> int:
    return max(len(column.name), WIDTHS[column.form])


def _aligned(column: Column, text: str) -> str:
    return text.rjust(_width(column)) if column.right_aligned else text.ljust(_width(column))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
