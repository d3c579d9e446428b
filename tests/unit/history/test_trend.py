"""A metric over runs: series, budget changes, remarks; as text, CSV and picture."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.cli import main
from h2o_gate_plugin.history.trend import Point, Series, gate_series
from h2o_gate_plugin.history.trend_plot import MOST_DOTS, MOST_PANELS, trend_figure
from h2o_gate_plugin.history.trend_text import sparkline, trend_lines

from .conftest import CASE, gate, make_run, row

Keep = Callable[..., Path]
TIGHTENED = (
    make_run(1, gate(value=0.01)),
    make_run(2, gate(value=0.02)),
    make_run(3, gate(value=0.03, limit=0.02, status="FAIL", origin="command line --max-decode-drop"), overall=False),
    make_run(4, gate(value=None, limit=0.02, status="NOT_MEASURED", origin="command line --max-decode-drop"), overall=False),
)


def show(folder: Path, *words: str) -> int:
    return main(["history", *words, "--h2o-history", str(folder)])


def test_a_budget_change_stands_with_the_run_in_which_it_appeared() -> None:
    (series,) = gate_series("decode_pass", TIGHTENED, None)
    assert [point.change is not None for point in series.points] == [False, False, True, False]
    lines = trend_lines(series)
    assert lines[0] == f"{CASE}: decode_pass (share)  ▁▅█·  0.010 to 0.030"
    assert lines[4].startswith("* 20261125T000300Z-m3  0303030+  hosthosthost  0.030  <= 0.020  -0.010  FAIL")
    assert lines[4].endswith("budget 0.050 → 0.020 (command line --max-decode-drop)")
    assert lines[5].startswith("  20261125T000400Z-m3  0404040   hosthosthost      -  <= 0.020       -  NOT MEASURED")


def test_a_limit_that_was_switched_off_is_a_change_too() -> None:
    off = make_run(2, gate(value=None, limit=None, status="OFF", origin="command line --max-decode-drop"))
    (series,) = gate_series("decode", (make_run(1, gate()), off), None)
    assert series.points[1].change is not None
    assert series.points[1].change.text == "budget 0.050 → off (command line --max-decode-drop)"


def test_a_change_too_small_for_the_figures_shows_all_its_digits() -> None:
    (series,) = gate_series("decode", (make_run(1, gate(limit=0.05)), make_run(2, gate(limit=0.0501))), None)
    assert series.points[1].change is not None
    assert series.points[1].change.text.startswith("budget 0.05 → 0.0501 ")


def test_criteria_of_a_gate_are_series_of_their_own_with_gaps_where_one_was_not_measured() -> None:
    def quality(number: int, kl: float) -> object:
        whole = gate("quality_pass", kl, 0.4, unit="nats")
        return make_run(
            number, whole, gate("quality_pass", kl, 0.4, criterion="KL", unit="nats"), gate("quality_pass", 0.9, 0.75, criterion="top-1")
        )

    unmeasured = make_run(2, gate("quality_pass", None, None, "NOT_MEASURED"))
    kl, top1 = gate_series("quality", (quality(1, 0.1), unmeasured, quality(3, 0.00001)), None)  # type: ignore[arg-type]
    assert (kl.name, kl.unit, top1.name, top1.unit) == ("quality_pass: KL", "nats", "quality_pass: top-1", "share")
    assert [(point.value, point.status, point.change) for point in kl.points] == [
        (0.1, "PASS", None),
        (None, "NOT_MEASURED", None),
        (0.00001, "PASS", None),
    ]
    assert "1.0e-05" in trend_lines(kl)[-1]


def test_what_else_differs_from_the_run_before_is_told() -> None:
    elsewhere = make_run(2, gate(), origin=Origin("another", "f" * 64, "d" * 64), plan="other", incomplete="the run was interrupted")
    (series,) = gate_series("decode", (make_run(1, gate()), elsewhere), None)
    assert series.points[1].remarks == ("another host", "another engine", "another model config", "another plan", "partial run")


def test_the_sparkline_runs_from_the_least_to_the_largest_and_leaves_gaps() -> None:
    assert sparkline([0.0, None, 7.0, 3.0]) == "▁·█▄"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([None]) == "·"


def test_the_command_shows_every_case_the_latest_runs_and_changes_found_over_all(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(kept(*TIGHTENED), "decode_pass", "--last", "2") == 0
    out = capsys.readouterr().out
    assert "000200Z" not in out
    assert "* 20261125T000300Z-m3" in out


def test_the_environment_names_the_folder_as_it_does_for_pytest(kept: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2O_HISTORY", str(kept(*TIGHTENED)))
    assert main(["history", "decode"]) == 0


def test_a_column_shows_the_median_of_the_candidates_rows_for_each_lengths(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (*(row(pair=pair, kl_mean=value) for pair, value in enumerate((0.1, 0.2, 0.4), 1)), row("baseline", kl_mean=9.0))
    folder = kept(make_run(1, gate(), rows=rows), make_run(2, gate(), rows=(row(kl_mean=0.3),)))
    assert show(folder, "kl_mean") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{CASE}: kl_mean, prompt 512 gen 128 (nats)  ▁█  0.200 to 0.300"
    assert lines[1].split() == ["run", "commit", "host", "value"]


def test_runs_of_a_sweep_at_the_same_lengths_are_not_mixed(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (row(run_id="run_0001_p512_g128_b8", h2o_lossy=3.0), row(run_id="run_0002_p512_g128_b16", h2o_lossy=4.0))
    assert show(kept(make_run(1, rows=rows)), "h2o_lossy") == 0
    out = capsys.readouterr().out
    assert "prompt 512 gen 128, run_0001_p512_g128_b8" in out
    assert "prompt 512 gen 128, run_0002_p512_g128_b16" in out


def test_pack_and_case_choose_what_is_shown(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kept(make_run(1, gate(), gate(case="m3/joint_store-1")), make_run(2, gate(case="final/store-1"), pack="final"))
    for words, shown in (((), 3), (("--pack", "final"), 1), (("--case", "m3/*"), 2), (("--case", CASE), 1)):
        assert show(folder, "decode", *words) == 0
        assert capsys.readouterr().out.count(": decode_pass") == shown


def test_the_csv_has_a_line_for_each_point_and_leaves_empty_what_is_not_known(kept: Keep, tmp_path: Path) -> None:
    table = tmp_path / "out" / "decode.csv"
    assert show(kept(*TIGHTENED), "decode", "--csv", str(table)) == 0
    with table.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["value"] for line in lines] == ["0.01", "0.02", "0.03", ""]
    assert lines[2]["budget_change"] == "budget 0.050 → 0.020 (command line --max-decode-drop)"
    assert (lines[0]["overall_pass"], lines[2]["overall_pass"], lines[0]["unit"]) == ("true", "false", "share")


def test_the_picture_marks_a_budget_change_and_is_drawn_in_both_formats(kept: Keep, tmp_path: Path) -> None:
    svg, png = tmp_path / "decode.svg", tmp_path / "decode.png"
    assert show(kept(*TIGHTENED), "decode", "--svg", str(svg), "--png", str(png)) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    ElementTree.fromstring(text)  # noqa: S314  our own file
    assert "budget 0.050 → 0.020" in text
    assert "not measured" in text


def test_a_picture_of_thousands_of_runs_is_a_line_without_dots() -> None:
    def drawn(n_run: int) -> str:
        points = tuple(Point(make_run(number), float(number % 7)) for number in range(n_run))
        return str(trend_figure("t", [Series("c", "decode_tps", "tok/s", None, points)]).axes[0].lines[0].get_marker())

    assert (drawn(MOST_DOTS), drawn(MOST_DOTS + 1)) == ("o", "None")


def test_a_picture_of_very_many_series_has_some_of_them_and_counts_the_rest() -> None:
    series = [Series(f"many/case_{number}", "lossy_pass", "ratio", ">=", (Point(make_run(1), 3.2),)) for number in range(200)]
    figure = trend_figure("t", series)
    assert (len(figure.axes), figure.get_suptitle()) == (MOST_PANELS, f"t; {200 - MOST_PANELS} more series are in the table")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("decode_pas",), "expected a gate or a column of h2o_metrics.csv, got 'decode_pas'; did you mean 'decode_pass'?"),
        (("h2o_losy",), "did you mean 'h2o_lossy'?"),
        (("xyzzy",), "got 'xyzzy'; gates are listed in docs/gates.md"),
        (("decode", "--pack", "m4"), "--pack: expected a pack of a kept run, got 'm4'"),
        (("decode", "--case", "m3/joint_ful-1"), "did you mean 'm3/joint_full-1'?"),
        (("decode", "--last", "0"), "--last: expected a whole number >= 1, got '0'"),
        (("decode", "--svg", "a.pdf"), "--svg: a.pdf: expected a name that ends in .svg, got .pdf; rename it"),
        (("lossy",), "lossy: expected a run that measured it, got none"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    kept: Keep, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(kept(make_run(1, gate(), rows=(row(h2o_lossy=3.2),))), *words) == 4
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
