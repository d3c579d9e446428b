"""The parser of llm_bench logs: what the contract prints is read exactly, anything else is an error that names the place."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.bench.table import LONGEST_LINE, MOST_ROWS, BenchRow, Measure, parse_log, parse_text, row_from_cells
from h2o_gate_plugin.bench_columns import H2O_COLUMNS
from h2o_gate_plugin.errors import TableError

HEADER = "| model | modelSize | backend | threads | precision | llm_demo | speed(tok/s) | h2o_lossy | h2o_lossless_decomp_us |"
RULER = "| ----- | --------: | ------- | ------: | --------- | -------- | -----------: | --------: | ---------------------: |"
ROW = "| ref | 1.50 GiB | CPU | 4 | Low | prompt=512<br>decode=128 | 900.10 ± 3.20<br>95.50 ± 0.70 | 3.200 ± 0.010 | 41.00 ± 2.00 |"


def log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def with_cell(column: str, cell: str) -> str:
    names = [name.strip() for name in HEADER.strip("|").split("|")]
    cells = [old.strip() for old in ROW.strip("|").split("|")]
    cells[names.index(column)] = cell
    return log(HEADER, RULER, f"| {' | '.join(cells)} |")


def test_every_cell_form_of_the_contract_is_read() -> None:
    (row,) = parse_log(log(HEADER, RULER, ROW))
    assert (row.source, row.line) == ("<text>", 3)
    assert (row.prompt_tokens, row.gen_tokens) == (512, 128)
    assert row.prefill_tps == Measure(900.1, 3.2)
    assert row.decode_tps == Measure(95.5, 0.7)
    assert row.measures["h2o_lossy"] == Measure(3.2, 0.01)
    assert row.measures["modelSize"] == Measure(1536.0, None)
    assert row.measures["threads"] == Measure(4.0, None)
    assert row.text["backend"] == "CPU"
    assert row.text["h2o_lossy"] == "3.200 ± 0.010"


def test_a_second_header_starts_a_new_table_with_its_own_columns() -> None:
    short_header = "| llm_demo | speed(tok/s) | h2o_lossy |"
    short_row = "| prompt=64<br>decode=8 | 1.00 ± 0.00<br>2.00 ± 0.00 | 2.500 ± 0.000 |"
    rows = parse_log(log(HEADER, RULER, ROW, short_header, "|---|---:|---:|", short_row, HEADER, RULER, ROW))
    assert [row.line for row in rows] == [3, 6, 9]
    assert [row.measures["h2o_lossy"].mean for row in rows] == [3.2, 2.5, 3.2]
    assert "h2o_lossless_decomp_us" not in rows[1].measures


def test_cells_and_rulers_need_no_spaces_and_a_table_no_further_columns() -> None:
    (row,) = parse_log(log("|test|t/s|", "|-|-|", "|pp512|70.00 ± 1.00|"))
    assert (row.text["test"], row.prefill_tps) == ("pp512", Measure(70.0, 1.0))


def test_a_row_without_lengths_and_speeds_has_none() -> None:
    row = row_from_cells({"model": "ref", "kl_mean": "n/a", "kl_masked": "0.25", "threads": "4"}, "metrics.csv", 2)
    assert (row.prompt_tokens, row.gen_tokens, row.prefill_tps, row.decode_tps) == (None, None, None, None)
    assert row.measures == {"kl_masked": Measure(0.25, None), "threads": Measure(4.0, None)}


def test_lines_outside_a_table_are_skipped() -> None:
    rows = parse_log(log("loading model", "[H2O] layer=2 kv=513 | x |", "", HEADER, RULER, ROW, "main, done"))
    assert [row.line for row in rows] == [6]


def test_not_measured_cells_are_absent_and_never_zero() -> None:
    (row,) = parse_log(with_cell("h2o_lossless_decomp_us", "n/a"))
    assert "h2o_lossless_decomp_us" not in row.measures
    assert row.text["h2o_lossless_decomp_us"] == "n/a"


def test_unknown_columns_stay_text() -> None:
    (row,) = parse_log(
        log("| llm_demo | speed(tok/s) | h2o_new |", "|---|---|---|", "| prompt=1<br>decode=1 | 1 ± 0<br>1 ± 0 | anything |")
    )
    assert row.text["h2o_new"] == "anything"
    assert row.measures == {}


@pytest.mark.parametrize(
    ("cell", "prompt", "gen", "prefill", "decode"),
    [
        ("pp512", 512, None, Measure(70.0, 1.0), None),
        ("tg128", None, 128, None, Measure(70.0, 1.0)),
        ("pp512+tg128", 512, 128, None, None),
    ],
)
def test_kv_false_rows_have_the_speed_of_their_test(
    cell: str, prompt: int | None, gen: int | None, prefill: Measure | None, decode: Measure | None
) -> None:
    (row,) = parse_log(log("| model | test | t/s |", "| --- | --- | ---: |", f"| ref | {cell} | 70.00 ± 1.00 |"))
    assert (row.prompt_tokens, row.gen_tokens, row.prefill_tps, row.decode_tps) == (prompt, gen, prefill, decode)
    assert row.measures["t/s"] == Measure(70.0, 1.0)


@pytest.mark.parametrize("cell", ["", "+", "512", "pp512tg128", "pp512+", "+tg128", "pp-1"])
def test_a_bad_test_cell_is_refused(cell: str) -> None:
    with pytest.raises(TableError, match=r"<text>:3: test: expected 'ppP'"):
        parse_log(log("| model | test | t/s |", "| --- | --- | ---: |", f"| ref | {cell} | 70.00 ± 1.00 |"))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1.2e3", "-3.2", "+3.2", "3.", ".5", "3,2", "0x3", "", "n/a ", "3 2", "٣"])
def test_a_number_outside_the_grammar_is_an_error_that_names_place_column_and_cell(number: str) -> None:
    with pytest.raises(TableError, match=r"^<text>:3: h2o_lossy: expected 'mean ± sd'.*got") as caught:
        parse_log(with_cell("h2o_lossy", f"{number} ± 0.010"))
    assert repr(f"{number} ± 0.010".strip()) in str(caught.value)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("h2o_lossy", "3.200"),
        ("h2o_lossy", "3.200 +- 0.010"),
        ("h2o_lossy", "3.200 ± nan"),
        ("h2o_lossy", "3.200 ± 0.010 x"),
        ("threads", "4.0"),
        ("threads", "n/a"),
        ("modelSize", "1.50"),
        ("modelSize", "1.50 KiB"),
        ("llm_demo", "prompt=512"),
        ("llm_demo", "prompt=512<br>decode=-1"),
        ("speed(tok/s)", "900.10 ± 3.20"),
        ("speed(tok/s)", "n/a"),
        ("speed(tok/s)", "0.00 ± 0.00<br>95.50 ± 0.70"),
        ("speed(tok/s)", "900.10 ± 3.20<br>0.00 ± 0.00"),
    ],
)
def test_a_cell_of_the_wrong_form_is_refused(column: str, cell: str) -> None:
    with pytest.raises(TableError) as caught:
        parse_log(with_cell(column, cell))
    expected = {
        "h2o_lossy": "'mean ± sd' in fixed-point digits, >= 0 (ratio)",
        "threads": "an integer >= 0",
        "modelSize": "'x MiB' or 'x GiB' (MiB)",
        "llm_demo": "'prompt=P<br>decode=N' (tokens)",
        "speed(tok/s)": "'prefill ± sd<br>decode ± sd', both speeds > 0 (tok/s)",
    }[column]
    assert str(caught.value) == f"<text>:3: {column}: expected {expected}, got {cell!r}; repair the log or run again"


def test_a_rounded_negative_zero_is_zero() -> None:
    (row,) = parse_log(with_cell("h2o_lossless_decomp_us", "-0.00 ± 0.00"))
    assert str(row.measures["h2o_lossless_decomp_us"].mean) == "0.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"<text>: log: expected an llm_bench table"),
        ("no table here\n", r"<text>: log: expected an llm_bench table"),
        (log(HEADER), r"<text>:1: header: expected a header line and a ruler"),
        (log(ROW), r"<text>:1: header: expected a header line and a ruler"),
        (log(HEADER, RULER), r"<text>: table: expected at least one row"),
        (log("| a | b |", "|---|---|", "| 1 | 2 |"), r"<text>:1: header: .* got 'a, b'; this is not an llm_bench table$"),
        (log("| llm_demo | speed(tok/s) | llm_demo |", "|---|---|---|"), r"<text>:1: header: expected each column once, got 'llm_demo'"),
        (
            log(HEADER[:-1], RULER, ROW),
            r"<text>:1: row: expected it to end in '\|', got '/s\) \| h2o_lossy \| h2o_lossless_decomp_us'; the log is cut",
        ),
        (log(HEADER, "|---|---|", ROW), r"<text>:2: ruler: expected 9 cells"),
        (log(HEADER, RULER, "| ref | 1.50 GiB |"), r"<text>:3: row: expected 9 cells as in the header, got 2"),
        (log(HEADER, RULER, ROW + " 1 |"), r"<text>:3: row: expected 9 cells as in the header, got 10"),
        (log(HEADER, RULER, ROW, ROW[:60]), r"<text>:4: row: expected it to end in '\|'"),
    ],
)
def test_a_log_that_is_no_whole_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        parse_log(text)


def test_a_file_is_named_in_rows_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(log(HEADER, RULER, ROW), encoding="utf-8")
    assert parse_log(path)[0].place == f"{path}:3"
    with pytest.raises(TableError, match=r"absent\.log: log: expected a readable UTF-8 text file"):
        parse_log(tmp_path / "absent.log")
    path.write_bytes(b"| \xff |")
    with pytest.raises(TableError, match="UTF-8"):
        parse_log(path)


def test_line_ends_of_another_system_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for data in (log(HEADER, RULER, ROW).replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + log(HEADER, RULER, ROW).encode()):
        path.write_bytes(data)
        assert parse_log(path)[0].place == f"{path}:3"
    assert parse_log("\ufeff" + log(HEADER, RULER, ROW))[0].line == 3


def test_a_log_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(log("x" * 4_000_000, *["[H2O] layer=2 kv=513"] * 100_000, HEADER, RULER, ROW), encoding="utf-8")
    tracemalloc.start()
    try:
        rows = parse_log(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row.line for row in rows] == [100_004]
    assert peak_bytes < 1_000_000


def test_a_table_line_without_an_end_and_a_table_without_an_end_are_refused(tmp_path: Path) -> None:
    long = "|" + "x" * LONGEST_LINE
    with pytest.raises(TableError, match=rf"^<text>:3: row: expected fewer than {LONGEST_LINE} characters, got more"):
        parse_log(log(HEADER, RULER, long))
    short = "| prompt=64<br>decode=8 | 1.00 ± 0.00<br>2.00 ± 0.00 |"
    most = ["| llm_demo | speed(tok/s) |", "|---|---|", *[short] * MOST_ROWS]
    assert len(parse_log(log(*most))) == MOST_ROWS
    with pytest.raises(TableError, match=rf"^<text>:{MOST_ROWS + 3}: row: expected at most {MOST_ROWS} rows in a log, got more"):
        parse_log(log(*most, short))


def outcome_of(text: str) -> tuple[BenchRow, ...] | TableError:
    try:
        return parse_log(text)
    except TableError as err:
        return err


_COLUMNS = st.lists(st.sampled_from(H2O_COLUMNS), unique=True, max_size=8)
_VALUES = st.floats(0, 1e7, allow_nan=False)


@settings(max_examples=40)
@given(_COLUMNS, st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 999), _VALUES), min_size=1, max_size=4))
def test_what_the_contract_prints_is_read_back(columns: list[object], instances: list[tuple[int, int, float]]) -> None:
    known = [column for column in H2O_COLUMNS if column in columns]
    header = "| " + " | ".join(["llm_demo", "speed(tok/s)", *(column.name for column in known)]) + " |"
    ruler = "|" + "---:|" * (len(known) + 2)
    rows = [
        f"| prompt={prompt}<br>decode={gen} | 10.00 ± 1.00<br>5.00 ± 0.50 |" + "".join(f" {v:.{c.decimals}f} ± 0.00 |" for c in known)
        for prompt, gen, v in instances
    ]
    parsed = parse_text(log(header, ruler, *rows), "x")
    assert [(row.prompt_tokens, row.gen_tokens) for row in parsed] == [(prompt, gen) for prompt, gen, _ in instances]
    for row, (_, _, value) in zip(parsed, instances, strict=True):
        assert row.measures == {c.name: Measure(float(f"{value:.{c.decimals}f}"), 0.0) for c in known}


@settings(max_examples=50)
@given(st.text(alphabet="|- ±:<br>=0123456789.naif\n", max_size=80), st.integers(0, len(ROW)))
def test_no_text_crashes_the_parser(junk: str, position: int) -> None:
    text = log(HEADER, RULER, ROW[:position] + junk + ROW[position:])
    outcome = outcome_of(text)
    assert "\n" not in str(outcome) if isinstance(outcome, TableError) else outcome


def test_importing_the_parser_does_not_import_pandas() -> None:
    code = "import sys, h2o_gate_plugin.bench.table; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("column", ["llm_demo", "threads", "h2o_lossy"])
def test_a_number_too_long_for_any_measurement_is_refused_and_not_infinite(column: str) -> None:
    digits = "9" * 5000
    cell = {"llm_demo": f"prompt={digits}<br>decode=1", "threads": digits, "h2o_lossy": f"{digits} ± 0.0"}[column]
    with pytest.raises(TableError, match=f"3: {column}: expected"):
        parse_log(with_cell(column, cell))
