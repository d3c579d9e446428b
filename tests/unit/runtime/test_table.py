from __future__ import annotations

import pytest

from h2o_gate_plugin.bench_columns import COLUMNS, Column
from h2o_gate_plugin.runtime.results import mean_and_sd
from h2o_gate_plugin.runtime.table import cell, header_lines, row_line


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("h2o_keep", (0.3, 0.4), "0.3500 ± 0.0707"),
        ("h2o_lossy", (3.2,), "3.200 ± 0.000"),
        ("h2o_evict_us", (1.0, 2.0, 4.5), "2.50 ± 1.80"),
        ("speed(tok/s)", ((100.0, 100.0), (10.0, 12.0)), "100.00 ± 0.00<br>11.00 ± 1.41"),
        ("modelSize", 14.02 * 1024**2, "14.02 MiB"),
        ("modelSize", 1023.9 * 1024**2, "1023.90 MiB"),
        ("modelSize", 1.5 * 1024**3, "1.50 GiB"),
        ("threads", 4.0, "4"),
        ("nll_kv", 1.23456, "1.2346"),
        ("nll_kv", None, "n/a"),
        ("h2o_lossy", None, "n/a"),
        ("model", "a|b", "a&#124;b"),
    ],
)
def test_cells_have_the_form_of_the_contract(name: str, value: object, text: str) -> None:
    assert cell(COLUMNS[name], value) == text


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert mean_and_sd((1.0, 3.0)) == pytest.approx((2.0, 2**0.5))
    assert mean_and_sd((7.0,)) == (7.0, 0.0)


def test_numeric_columns_end_their_ruler_in_a_colon_and_all_lines_have_the_same_cells() -> None:
    columns = (COLUMNS["model"], COLUMNS["threads"], COLUMNS["h2o_lossy"], COLUMNS["llm_demo"])
    header, ruler = header_lines(columns)
    row = row_line(columns, {"model": "m", "threads": 1.0, "h2o_lossy": (3.0,), "llm_demo": "prompt=8<br>decode=2"})
    assert [text.strip() for text in header.strip("|").split("|")] == ["model", "threads", "h2o_lossy", "llm_demo"]
    rules = [text.strip() for text in ruler.strip("|").split("|")]
    assert [rule[-1] for rule in rules] == ["-", ":", ":", "-"]
    assert all(set(rule[:-1]) == {"-"} for rule in rules)
    assert len(header) == len(ruler) == len(row)


def test_a_name_longer_than_the_cells_widens_its_column() -> None:
    column = Column("a_very_long_name_of_a_column", "number", "evidence", "", 1)
    assert row_line((column,), {column.name: 1.0}) == "| " + "1.0".rjust(len(column.name)) + " |"
