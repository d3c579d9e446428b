"""The Pareto front of a sweep: who is on it, who is not and why; as table, CSV and picture."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_gate_plugin.bench.front import KL, NLL_RATIO, Front, dominates, front_of, pareto_front
from h2o_gate_plugin.bench.front_plot import MOST_PANELS, front_figure, numbered, write_front_picture
from h2o_gate_plugin.bench.front_text import MOST_OFF_FRONT, front_lines, write_front_csv
from h2o_gate_plugin.bench.measurement import ProcessRecord
from h2o_gate_plugin.bench.preset import BenchConfig, Preset, expand
from h2o_gate_plugin.bench.table import BenchRow, Measure

BLOCKS = "kv_h2o_block_tokens"
POINTS = st.lists(st.tuples(*[st.sampled_from((1.0, 2.0, 3.0))] * 3), max_size=12)


def plan(prompts: tuple[int, ...] = (512,), blocks: tuple[int, ...] = (8, 16, 32)) -> tuple[BenchConfig, ...]:
    return expand(Preset("tiny", None, "", prompts, (128,), 1, "cpu", 1, 0, {BLOCKS: blocks}), {})


def record(config: BenchConfig, tps: float | None = 200.0, **columns: float) -> ProcessRecord:
    measures = {name: Measure(value, None) for name, value in columns.items()}
    row = BenchRow("log", 3, {}, config.prompt, config.gen, None, None if tps is None else Measure(tps, 1.0), measures)
    return ProcessRecord("candidate", None, config.run_id, None, None, (row,), None)


def held(config: BenchConfig, tps: float, ratio: float, kl: float) -> ProcessRecord:
    return record(config, tps, kv_range_full_mb=12.0, kv_range_decode_mb=12.0 / ratio, kv_range_resident_mb=1.0, kl_mean=kl)


@given(POINTS)
def test_a_point_is_on_the_front_unless_a_point_of_the_front_dominates_it(points: list[tuple[float, float, float]]) -> None:
    for point, beaten_by in zip(points, found := pareto_front(points), strict=True):
        if beaten_by is None:
            assert not any(dominates(other, point) for other in points)
        else:
            assert found[beaten_by] is None
            assert dominates(points[beaten_by], point)


def test_equal_points_are_both_on_the_front() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]) == (None, None, 0)


def test_ratio_speed_and_quality_decide_and_the_dominated_run_names_who_beats_it() -> None:
    fast, better, beaten = plan()
    front = front_of(plan(), (BLOCKS,), (held(fast, 220, 3.0, 0.2), held(better, 200, 3.0, 0.1), held(beaten, 190, 2.9, 0.1)))
    assert [(run.status, run.reason) for run in front.runs] == [("front", None), ("front", None), ("dominated", f"by {better.run_id}")]
    assert front.runs[0].swept == {BLOCKS: 8}
    assert front.quality is KL


def test_the_ratio_is_what_memory_held_at_the_worse_moment_and_the_claim_only_where_no_bytes_are_told() -> None:
    both = record(plan()[0], kv_range_full_mb=12.0, kv_range_decode_mb=4.0, kv_range_resident_mb=3.0, h2o_lossy=3.5, h2o_lossless=1.4)
    end_only = record(plan()[1], kv_range_full_mb=12.0, kv_range_resident_mb=3.0)
    claim = record(plan()[2], h2o_lossy=3.5, h2o_lossless=1.4)
    runs = front_of(plan(), (), (both, end_only, claim)).runs
    assert [run.turn_ratio for run in runs] == [4.0, 4.0, None]
    assert [(run.total_ratio, run.ratio_source) for run in runs] == [(3.0, "held"), (4.0, "held"), (pytest.approx(4.9), "claimed")]


def test_runs_of_other_lengths_do_not_compete() -> None:
    configs = plan(prompts=(512, 1024), blocks=(8,))
    front = front_of(configs, (), (held(configs[0], 220, 3.0, 0.1), held(configs[1], 200, 2.9, 0.2)))
    assert [run.status for run in front.runs] == ["front", "front"]


def test_quality_is_the_nll_ratio_where_no_run_tells_a_divergence_and_nothing_where_none_tells_either() -> None:
    a, b, c = plan()
    claim = {"h2o_lossy": 3.0, "h2o_lossless": 1.0}
    nll = front_of((a, b), (), (record(a, **claim, nll_full=2.0, nll_kv=2.2), record(b, **claim, nll_full=2.0, nll_kv=2.1)))
    assert nll.quality is NLL_RATIO
    assert [run.status for run in nll.runs] == ["dominated", "front"]
    bare = front_of((a, c), (), (record(a, **claim), record(c, 100.0, **claim)))
    assert [run.status for run in bare.runs] == ["front", "dominated"]
    assert "the front is of ratio and speed alone" in front_lines(bare)[0]


def mixed() -> Front:
    """One run of each standing."""
    configs = plan(blocks=(8, 16, 32, 64, 128))
    failed = replace(record(configs[3]), rows=(), error="exit code 9: boom")
    silent = record(configs[2], kv_range_full_mb=12.0, kv_range_decode_mb=4.0)
    return front_of(configs, (BLOCKS,), (held(configs[0], 220, 3.0, 0.1), held(configs[1], 210, 2.9, 0.2), silent, failed))


def test_every_planned_run_is_in_the_table_with_where_it_stands_and_why() -> None:
    text = "\n".join(front_lines(mixed()))
    assert "prompt 512 gen 128: 1 front, 1 dominated, 1 not measured, 1 failed, 1 not run" in text
    for line in (
        r"* run_0001",
        "dominated by run_0001_p512_g128_k0.3_b8_lr3.2",
        "not measured: no kl_mean",
        "failed: exit code 9: boom",
        "not run: the sweep did not get to it",
        "block_tokens=16",
    ):
        assert line in text


def spread(n_run: int) -> Front:
    """Half of the runs on the front, on a line of ratio against speed; each dominates one of the other half."""
    configs = plan(blocks=tuple(range(1, n_run + 1)))
    places = [(index // 2, index % 2) for index in range(n_run)]
    return front_of(configs, (), [held(c, 200.0 - at - off, 2.0 + at / n_run, 0.1) for c, (at, off) in zip(configs, places, strict=True)])


def test_of_many_runs_the_table_shows_the_whole_front_and_counts_what_it_leaves_out() -> None:
    lines = front_lines(spread(2000))
    assert lines[2] == "prompt 512 gen 128: 1000 front, 1000 dominated"
    assert sum(line.endswith("  front") for line in lines) == 1000
    assert sum("dominated by" in line for line in lines) == MOST_OFF_FRONT
    assert lines[-1] == f"  and {1000 - MOST_OFF_FRONT} more dominated: sweep.csv has all runs"
    assert len(lines) == 2 + 2 + 1000 + MOST_OFF_FRONT + 1


def test_numbers_in_the_picture_stand_apart_however_long_the_front_is() -> None:
    assert len(numbered([run for run in spread(10).runs if run.total_ratio])) == 5
    chosen = numbered(spread(2000).runs)
    ratios = [run.total_ratio or 0.0 for run in chosen]
    assert 10 < len(chosen) < 60
    assert all(later - earlier > 0.01 for earlier, later in pairwise(ratios))


def test_a_picture_of_very_many_lengths_has_some_of_them_and_counts_the_rest() -> None:
    configs = plan(prompts=tuple(range(1, MOST_PANELS + 31)), blocks=(8,))
    figure = front_figure("Sweep", front_of(configs, (), [held(config, 200.0, 3.0, 0.1) for config in configs]))
    assert sum(axes.get_title(loc="left").startswith("prompt ") for axes in figure.axes) == MOST_PANELS
    assert figure.get_suptitle() == "Sweep; 30 more lengths are in sweep.csv"


def test_every_planned_run_is_in_the_csv_with_pareto_true_or_false(tmp_path: Path) -> None:
    write_front_csv(tmp_path / "sweep.csv", mixed())
    with (tmp_path / "sweep.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["pareto"] for line in lines] == ["true", "false", "false", "false", "false"]
    assert [line["status"] for line in lines] == ["front", "dominated", "not measured", "failed", "not run"]
    assert (lines[0]["total_ratio"], lines[0]["kl_mean"], lines[2]["kl_mean"], lines[0][BLOCKS]) == ("3.0", "0.1", "", "8")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]


def test_the_picture_names_what_it_does_not_draw(tmp_path: Path) -> None:
    write_front_picture(tmp_path / "pareto.svg", "Sweep", mixed())
    text = (tmp_path / "pareto.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)  # noqa: S314  our own file
    for told in (
        "not drawn: 1 failed, 1 not run",
        "front (held ratio)",
        "dominated (held ratio)",
        "quality not measured",
        "kl_mean (nats)",
    ):
        assert told in text


def test_a_sweep_without_a_single_figure_is_drawn_all_the_same(tmp_path: Path) -> None:
    write_front_picture(tmp_path / "pareto.png", "Sweep", front_of(plan(), (), ()))
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
