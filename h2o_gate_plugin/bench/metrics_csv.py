"""h2o_metrics.csv: rows ↔ a table of plain numbers, one column per value and one ``_sd`` twin per spread."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2o_gate_plugin.bench.table import LARGEST_LOG_BYTES, BenchRow, Measure, parse_measure, row_from_cells
from h2o_gate_plugin.bench_columns import COLUMNS, NOT_MEASURED_CELL, Column
from h2o_gate_plugin.errors import TableError
from h2o_gate_plugin.files import written_whole
from h2o_gate_plugin.outside_file import read_bytes

if TYPE_CHECKING:
    import pandas as pd

_SPEEDS = ("prefill_tps", "decode_tps")
_LENGTHS = ("prompt_tokens", "gen_tokens")
_INTEGER = re.compile("[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")


def metrics_frame(rows: Sequence[BenchRow], tags: Sequence[Mapping[str, str]] = ()) -> pd.DataFrame:
    """One line per row. ``tags``: columns to put in front of each row (case, role, …), one mapping per row, or none.

    Columns: tags, source, line, prompt_tokens, gen_tokens, prefill_tps, decode_tps (tok/s, each with ``_sd``), then the table's
    columns by their names: text as printed, numbers in the column's unit with ``_sd``. Not measured = empty.
    """
    import pandas as pd  # late: it takes half a second, and reading needs none of it

    tagged = zip(rows, tags or ({},) * len(rows), strict=True)
    frame = pd.DataFrame([_record(row, tag) for row, tag in tagged])
    for name in _LENGTHS:
        if name in frame:
            frame[name] = frame[name].astype("Int64")
    return frame


def write_metrics_csv(path: Path, rows: Sequence[BenchRow], tags: Sequence[Mapping[str, str]] = ()) -> None:
    frame = metrics_frame(rows, tags)
    with written_whole(path) as partial:
        frame.to_csv(partial, index=False, encoding="utf-8", errors="backslashreplace")


def _record(row: BenchRow, tag: Mapping[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {**tag, "source": row.source, "line": row.line}
    record |= {"prompt_tokens": row.prompt_tokens, "gen_tokens": row.gen_tokens}
    for name, speed in zip(_SPEEDS, (row.prefill_tps, row.decode_tps), strict=True):
        record |= {name: speed and speed.mean, f"{name}_sd": speed and speed.sd}
    for name, cell in row.text.items():
        form = COLUMNS[name].form if name in COLUMNS else "text"
        if form in ("mean_sd", "number"):
            measure = row.measures.get(name)
            record[name] = measure and measure.mean
            if form == "mean_sd":
                record[f"{name}_sd"] = measure and measure.sd
        elif form not in ("llm_demo", "speed"):
            record.setdefault(name, cell)
    return record


def read_metrics_csv(path: Path) -> tuple[BenchRow, ...]:
    """Read our own CSV, or one made elsewhere with columns named like the table's (cells as numbers or as ``mean ± sd``).

    Columns that nothing is known of (tags, say) stay in ``text``. Raises TableError with file, line and column.
    """
    lines = _lines(path)
    names = [name.strip() for name in lines[0][1]]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise TableError(f"{path}:1: header: expected each column once, got {twice[0]!r} twice; remove one")
    if not set(names) & (set(COLUMNS) | set(_SPEEDS)):
        raise TableError(f"{path}:1: header: expected columns named like llm_bench's table, got {', '.join(names)!r}; check the file")
    if len(lines) < 2:
        raise TableError(f"{path}: csv: expected at least one row below the header, got none; check the file")
    rows: list[BenchRow] = []
    for number, line in lines[1:]:
        if len(line) != len(names):
            raise TableError(f"{path}:{number}: row: expected {len(names)} cells as in the header, got {len(line)}; repair the file")
        rows.append(_row(dict(zip(names, (cell.strip() for cell in line), strict=True)), str(path), number))
    return tuple(rows)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty with their numbers. By the csv module: pandas fills a short row up without a word."""
    try:
        text = read_bytes(path, LARGEST_LOG_BYTES).decode("utf-8-sig")
        reader = csv.reader(StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise TableError(f"{path}: csv: expected a readable CSV with a header, got {err}; check the file") from err
    if not lines:
        raise TableError(f"{path}: csv: expected a readable CSV with a header, got an empty file; check the file")
    return lines


def _row(cells: Mapping[str, str], source: str, line: int) -> BenchRow:
    place = f"{source}:{line}"
    plain: dict[str, str] = {}
    measures: dict[str, Measure] = {}
    for name, cell in cells.items():
        column = COLUMNS.get(name)
        if column is not None and column.form in ("mean_sd", "number"):
            measure = _measure(column, cell, cells.get(f"{name}_sd", ""), place)
            if measure is not None:
                measures[name] = measure
        elif cell or column is None:
            plain[name] = cell
    base = row_from_cells({name: cell for name, cell in plain.items() if name not in ("test", "t/s")}, source, line)
    return replace(
        base,
        source=cells.get("source") or source,
        line=_integer("line", cells["line"], place) if cells.get("source") and cells.get("line") else line,
        text=dict(cells),
        prompt_tokens=_length("prompt_tokens", cells, base.prompt_tokens, place),
        gen_tokens=_length("gen_tokens", cells, base.gen_tokens, place),
        prefill_tps=_speed("prefill_tps", cells, base.prefill_tps, place),
        decode_tps=_speed("decode_tps", cells, base.decode_tps, place),
        measures={**base.measures, **measures},
    )


def _measure(column: Column, cell: str, sd: str, place: str) -> Measure | None:
    if cell in ("", NOT_MEASURED_CELL):
        return None
    if "±" in cell:
        return parse_measure(column, cell, place)
    return Measure(_number(column.name, cell, place), _number(f"{column.name}_sd", sd, place) if sd else None)


def _length(name: str, cells: Mapping[str, str], otherwise: int | None, place: str) -> int | None:
    return _integer(name, cells[name], place) if cells.get(name) else otherwise


def _speed(name: str, cells: Mapping[str, str], otherwise: Measure | None, place: str) -> Measure | None:
    """The column ``name`` with its ``_sd``, else what the table's own speed column says."""
    cell, sd = cells.get(name, ""), cells.get(f"{name}_sd", "")
    if not cell:
        return otherwise
    mean = _number(name, cell, place)
    if mean <= 0:
        raise TableError(f"{place}: {name}: expected a speed > 0 (tok/s), got {cell!r}; repair the file")
    return Measure(mean, _number(f"{name}_sd", sd, place) if sd else None)


def _number(name: str, cell: str, place: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise TableError(f"{place}: {name}: expected a fixed-point number >= 0, got {cell!r}; repair the file")
    return float(cell)


def _integer(name: str, cell: str, place: str) -> int:
    if not _INTEGER.fullmatch(cell):
        raise TableError(f"{place}: {name}: expected an integer >= 0, got {cell!r}; repair the file")
    return int(cell)
