"""An llm_bench log → rows. The grammar is strict: a cell that is not what the contract prints is an error, never a number.

Source: the llm_bench contract ("Markdown table"). Lines that do not start with ``|`` are not part of a table and are skipped.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from h2o_gate_plugin.bench_columns import COLUMNS, NOT_MEASURED_CELL, Column
from h2o_gate_plugin.errors import TableError
from h2o_gate_plugin.outside_file import MIB, opened

LONGEST_LINE = 64 * 1024
"""Characters of a table's line; the contract's longest, with a kept_tokens of 1,000 layers, has some 8,000."""
MOST_ROWS = 10_000

LARGEST_LOG_BYTES = 512 * MIB
MIB_PER_UNIT = {"MiB": 1.0, "GiB": 1024.0}

_DIGITS = "[0-9]{1,18}"  # ASCII only; more would leave int64 and, further on, float
_NUMBER = rf"(?:{_DIGITS}(?:\.{_DIGITS})?|-0(?:\.0{{1,18}})?)"  # what %.2f prints of a value >= 0; a rounded negative zero is zero
_MEAN_SD = re.compile(rf"({_NUMBER}) ± ({_NUMBER})")
_ONE_NUMBER = re.compile(_NUMBER)
_SPEED = re.compile(rf"({_NUMBER}) ± ({_NUMBER})<br>({_NUMBER}) ± ({_NUMBER})")
_BYTES = re.compile(rf"({_NUMBER}) (MiB|GiB)")
_LLM_DEMO = re.compile(rf"prompt=({_DIGITS})<br>decode=({_DIGITS})")
_TEST = re.compile(rf"(?:pp({_DIGITS}))?(?:\+)?(?:tg({_DIGITS}))?")
_INTEGER = re.compile(_DIGITS)
_RULER = re.compile(r":?-+:?")

_EXPECTED = {
    "integer": "an integer >= 0",
    "mean_sd": "'mean ± sd' in fixed-point digits, >= 0",
    "number": "a fixed-point number >= 0",
    "llm_demo": "'prompt=P<br>decode=N'",
    "speed": "'prefill ± sd<br>decode ± sd', both speeds > 0",
    "bytes": "'x MiB' or 'x GiB'",
}


@dataclass(frozen=True)
class Measure:
    """``mean`` in the column's unit; ``sd`` is the sample sd over the repeats, None where the cell has none."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class BenchRow:
    """One row. ``text`` holds every cell as printed; ``measures`` the numeric columns, without those that print n/a.

    ``source`` and ``line`` (1-based) say where it stands. Speeds in tok/s; a ``-kv false`` row has one of them, or neither.
    """

    source: str
    line: int
    text: Mapping[str, str]
    prompt_tokens: int | None
    gen_tokens: int | None
    prefill_tps: Measure | None
    decode_tps: Measure | None
    measures: Mapping[str, Measure]

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


def parse_log(log: Path | str) -> tuple[BenchRow, ...]:
    """Rows of the log file (Path) or of the log text (str), in order; a second header starts a new table.

    Raises TableError, naming file, line, column, what was expected and what stands there: no table, a table without a row,
    a row with missing cells, a cell outside the grammar. A file is read line by line: what is no table takes no memory.
    """
    if isinstance(log, str):
        return parse_text(log, "<text>")
    try:
        with opened(log, LARGEST_LOG_BYTES) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
            return _rows(text, str(log))
    except (OSError, UnicodeDecodeError) as err:
        raise TableError(f"{log}: log: expected a readable UTF-8 text file, got {err}; check the path") from err


def parse_text(text: str, source: str) -> tuple[BenchRow, ...]:
    """As ``parse_log``, with ``source`` as the name in rows and errors."""
    return _rows(io.StringIO(text.removeprefix("\ufeff"), newline="\n"), source)


def _rows(file: TextIO, source: str) -> tuple[BenchRow, ...]:
    rows: list[BenchRow] = []
    header: tuple[str, ...] | None = None
    lines = _table_lines(file, source)
    ahead = next(lines, None)
    if ahead is None:
        raise TableError(f"{source}: log: expected an llm_bench table (lines that start with '|'), got none; look at the engine's stdout")
    while ahead is not None:
        (number, line), ahead = ahead, next(lines, None)
        place = f"{source}:{number}"
        if ahead is not None and ahead[0] == number + 1 and _is_ruler(ahead[1]):
            header = _header(_cells(line, place), place)
            _expect_cells(_cells(ahead[1], f"{source}:{ahead[0]}"), header, f"{source}:{ahead[0]}", "ruler")
            ahead = next(lines, None)
            continue
        if header is None:
            raise TableError(
                f"{place}: header: expected a header line and a ruler line, got {line[:200]!r}; the log is cut or not llm_bench's"
            )
        if len(rows) == MOST_ROWS:
            raise TableError(f"{place}: row: expected at most {MOST_ROWS} rows in a log, got more; split it")
        rows.append(_row(header, _cells(line, place), source, number))
    if not rows:
        raise TableError(f"{source}: table: expected at least one row below the header, got none; look at the engine's stdout")
    return tuple(rows)


def _table_lines(file: TextIO, source: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that start with ``|``, without the space around them. A line without an end must not fill the memory."""
    number, fresh, wanted = 1, True, False
    while part := file.readline(LONGEST_LINE):
        ends = part.endswith("\n")
        wanted = part.startswith("|") if fresh else wanted
        if wanted and not ends and len(part) == LONGEST_LINE:
            raise TableError(
                f"{source}:{number}: row: expected fewer than {LONGEST_LINE} characters, got more; repair the log or run again"
            )
        if wanted and fresh:
            yield number, part.strip()
        fresh = ends
        number += ends


def _cells(line: str, place: str) -> tuple[str, ...]:
    if len(line) < 2 or not line.endswith("|"):
        raise TableError(f"{place}: row: expected it to end in '|', got {line[-40:]!r}; the log is cut")
    return tuple(cell.strip() for cell in line[1:-1].split("|"))


def _is_ruler(line: str) -> bool:
    return line.endswith("|") and all(_RULER.fullmatch(cell.strip()) for cell in line[1:-1].split("|"))


def _expect_cells(cells: tuple[str, ...], header: tuple[str, ...], place: str, thing: str) -> None:
    if len(cells) != len(header):
        raise TableError(f"{place}: {thing}: expected {len(header)} cells as in the header, got {len(cells)}; the log is cut or mixed")


def _header(names: tuple[str, ...], place: str) -> tuple[str, ...]:
    if not ({"llm_demo", "speed(tok/s)"} <= set(names) or {"test", "t/s"} <= set(names)):
        raise TableError(
            f"{place}: header: expected the columns llm_demo and speed(tok/s), or test and t/s, got {', '.join(names)!r}; "
            "this is not an llm_bench table"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise TableError(f"{place}: header: expected each column once, got {twice[0]!r} twice; repair the log")
    return names


def _row(header: tuple[str, ...], cells: tuple[str, ...], source: str, line: int) -> BenchRow:
    place = f"{source}:{line}"
    _expect_cells(cells, header, place, "row")
    return row_from_cells(dict(zip(header, cells, strict=True)), source, line)


def row_from_cells(cells: Mapping[str, str], source: str, line: int) -> BenchRow:
    """Cells by column name → row. Columns that the contract does not know stay in ``text`` only. Raises TableError."""
    place = f"{source}:{line}"
    measures: dict[str, Measure] = {}
    prompt = gen = None
    prefill = decode = None
    for name, cell in cells.items():
        column = COLUMNS.get(name)
        if column is None or column.form == "text":
            continue
        if column.form == "llm_demo":
            prompt, gen = (int(group) for group in _match(_LLM_DEMO, column, cell, place))
        elif column.form == "speed":
            numbers = [float(group) for group in _match(_SPEED, column, cell, place)]
            if numbers[0] <= 0 or numbers[2] <= 0:
                raise _cell_error(column, cell, place)
            prefill, decode = Measure(numbers[0], numbers[1]), Measure(numbers[2], numbers[3])
        else:
            measure = parse_measure(column, cell, place)
            if measure is not None:
                measures[name] = measure
    if "test" in cells:
        prompt, gen = _test_lengths(cells["test"], place)
        speed = measures.get("t/s")
        prefill, decode = (speed if gen is None else None), (speed if prompt is None else None)
    return BenchRow(source, line, dict(cells), prompt, gen, prefill, decode, measures)


def parse_measure(column: Column, cell: str, place: str) -> Measure | None:
    """A cell of form integer, number, mean_sd or bytes (→ MiB); None for the n/a cell. Raises TableError."""
    if cell == NOT_MEASURED_CELL and column.form in ("mean_sd", "number"):
        return None
    if column.form == "mean_sd":
        mean, sd = _match(_MEAN_SD, column, cell, place)
        return Measure(abs(float(mean)), abs(float(sd)))
    if column.form == "bytes":
        size, unit = _match(_BYTES, column, cell, place)
        return Measure(float(size) * MIB_PER_UNIT[unit], None)
    pattern = _INTEGER if column.form == "integer" else _ONE_NUMBER
    if not pattern.fullmatch(cell):
        raise _cell_error(column, cell, place)
    return Measure(abs(float(cell)), None)


def _test_lengths(cell: str, place: str) -> tuple[int | None, int | None]:
    match = _TEST.fullmatch(cell)
    if match is None or not any(match.groups()) or ("+" in cell) != all(match.groups()):
        raise TableError(f"{place}: test: expected 'ppP', 'tgN' or 'ppP+tgN', got {cell!r}; repair the log or run again")
    prompt, gen = match.groups()
    return (int(prompt) if prompt else None), (int(gen) if gen else None)


def _match(pattern: re.Pattern[str], column: Column, cell: str, place: str) -> tuple[str, ...]:
    match = pattern.fullmatch(cell)
    if match is None:
        raise _cell_error(column, cell, place)
    return match.groups()


def _cell_error(column: Column, cell: str, place: str) -> TableError:
    unit = f" ({column.unit})" if column.unit else ""
    return TableError(f"{place}: {column.name}: expected {_EXPECTED[column.form]}{unit}, got {cell!r}; repair the log or run again")
