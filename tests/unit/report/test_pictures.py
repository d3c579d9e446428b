"""Pictures as data: what each one draws, says and tabulates, and why one cannot be drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from h2o_gate_plugin.gates.result import GateResult
from h2o_gate_plugin.report.charts import Band, BarChart, KeptMap, LayerRuns, Level, NoPicture, XyChart
from h2o_gate_plugin.report.model import RunReport
from h2o_gate_plugin.report.pictures import (
    DIVERGENCE,
    KEPT,
    RESIDENT,
    Picture,
    budget_share,
    case_pictures,
    offline_pictures,
    share_text,
)

from .reports import LOSSY, QUEUE, RUN, SPEEDS, TRACE, make_case


def of_run(run: RunReport = RUN) -> dict[str, Picture]:
    group = case_pictures(make_case(measured_runs=(run,)))[1]
    return {picture.title: picture for picture in group.pictures}


def xy(title: str, run: RunReport = RUN) -> XyChart:
    chart = of_run(run)[title]
    assert isinstance(chart, XyChart)
    return chart


def test_the_pairs_are_drawn_with_both_speeds_and_their_drop_in_the_table() -> None:
    chart = xy("Decode speed, pair by pair")
    assert {series.name: [y for _, y in series.points] for series in chart.series} == {
        "baseline, KV features off": [200.0] * 4,
        "candidate": [190.0, 210.0, 200.0, 204.0],
    }
    assert chart.says == "4 pairs; the candidate decodes faster than its baseline in 2 of them."
    assert chart.table.rows[0] == ("1", "200.0", "190.0", "+5.0%")


def test_the_drop_stands_between_its_interval_and_the_limit() -> None:
    chart = xy("Decode drop, its interval and limit")
    assert [y for _, y in chart.series[0].points] == pytest.approx([5.0, -5.0, 0.0, -2.0])
    assert chart.bands == (Band("95 % sure of either end", -4.0, 3.0),)
    assert chart.levels == (Level("judged drop", -1.0), Level("limit", 5.0, limit=True))
    assert chart.says == "Drop -1.0% (95 % sure >= -4.0%, 95 % sure <= +3.0%), limit +5.0%; below 0 the candidate is faster."


def test_without_a_test_there_is_no_interval_and_without_a_limit_no_limit() -> None:
    chart = xy("Decode drop, its interval and limit", replace(RUN, speeds=replace(SPEEDS, least=None, most=None, limit=None)))
    assert chart.bands == ()
    assert [level.name for level in chart.levels] == ["judged drop"]
    assert "no interval" in chart.says
    assert "limit off" in chart.says


def test_resident_kv_stands_against_full_kv_in_mib() -> None:
    chart = xy(RESIDENT)
    assert {series.name: [y for _, y in series.points] for series in chart.series} == {
        "all layers, full KV": [3.0, 4.0, 5.0],
        "all layers, resident": [3.0, 2.0, 2.0],
        "H2O's range (layers 1 to 2), full KV": [2.0, 2.0, 2.0],
        "H2O's range, resident": [2.0, 1.0, 1.0],
    }
    assert "2.00 of 5.00 MiB" in chart.says
    assert "2.00x while decoding, 4.00x after the turn" in chart.says
    assert chart.table.rows[-1] == ("after the turn", "5.000", "2.000", "2.000", "0.500")
    assert [row[0] for row in chart.table.rows[:-1]] == ["512", "513", "514"]


def test_kept_tokens_are_told_by_layer_and_layers_that_keep_alike_together() -> None:
    kept = of_run()[KEPT]
    assert isinstance(kept, KeptMap)
    assert (kept.n_positions, kept.prompt_tokens) == (514, 512)
    assert kept.layers[1] == LayerRuns(1, ((0, 4), (500, 514)))
    assert kept.says == "layer 0 keeps all of 514; layers 1 to 2 keep 18 of 514; layer 3: not in the trace."
    assert kept.table.rows[1] == ("1", "18", "2", "[0, 4) [500, 514)")


def test_divergence_is_drawn_for_the_policies_that_were_read_and_where_it_is_a_number() -> None:
    chart = xy(DIVERGENCE)
    assert {series.name: series.points for series in chart.series} == {
        "this configuration": ((1.0, 0.5),),
        "as many random tokens": ((1.0, 1.0), (2.0, 2.0)),
    }
    assert chart.says == "Mean KL in nats: this configuration 0.500, as many random tokens 1.500."
    assert chart.table.rows == (("1 to 1", "0.5000", "1.0000"), ("2 to 2", "n/a", "2.0000"))


def test_what_is_missing_is_named_with_its_reason() -> None:
    bare = of_run(replace(RUN, speeds=None, trace=None, trace_gap="engine wrote no trace"))
    assert [(picture.title, picture.why) for picture in bare.values() if isinstance(picture, NoPicture)] == [
        ("Decode speed of the pairs", "no decode speed with a baseline to compare it with"),
        (RESIDENT, "engine wrote no trace"),
        (KEPT, "engine wrote no trace"),
        (DIVERGENCE, "engine wrote no trace"),
    ]
    poor = of_run(replace(RUN, trace=replace(TRACE, kept=(None, None), kl_by_position=None)))
    assert poor[KEPT] == NoPicture(KEPT, "the trace holds no kept positions")
    assert poor[DIVERGENCE] == NoPicture(DIVERGENCE, "the engine measured no quality in this run")


def test_runs_of_equal_lengths_are_told_apart_by_their_ids() -> None:
    case = make_case(measured_runs=(RUN, replace(RUN, run_id="run_0002_p512_g2"), replace(RUN, prompt_tokens=1024)))
    assert [group.name for group in case_pictures(case)] == [
        "Budgets", "prompt 512 gen 2, run_0001_p512_g2", "prompt 512 gen 2, run_0002_p512_g2", "prompt 1024 gen 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "share", "text"),
    [
        ({"value": 3.75}, 0.8, "80%"),
        ({"value": 3.0}, 1.0, "100%"),
        ({"value": 1.5}, 2.0, "200%"),
        ({"value": 0.25}, 12.0, "12x"),
        ({"value": 2.0, "limit": 8.0, "direction": "<="}, 0.25, "25%"),
        ({"value": -0.01, "limit": 0.05, "direction": "<="}, -0.2, "-20%"),
        ({"value": 0.0, "limit": 0.0, "direction": "<="}, 0.0, "0 of 0"),
        ({"value": 1.0, "limit": 0.0, "direction": "<="}, float("inf"), "over 0"),
    ],
)
def test_the_share_of_a_budget_is_1_at_the_limit_in_either_direction(changes: dict[str, Any], share: float, text: str) -> None:
    gate = replace(LOSSY, **changes)
    found = budget_share(gate)
    assert found == pytest.approx(share)
    assert share_text(gate, found or 0.0) == text


@pytest.mark.parametrize("changes", [{"value": None}, {"limit": None}, {"status": "OFF"}])
def test_a_gate_without_value_or_limit_or_that_is_off_has_no_share(changes: dict[str, Any]) -> None:
    assert budget_share(replace(LOSSY, **changes)) is None


def budgets(*gates: GateResult) -> Picture:
    (picture,) = case_pictures(make_case(*gates))[0].pictures
    return picture


def test_the_budgets_name_the_gate_nearest_to_its_limit_or_those_beyond() -> None:
    chart = budgets(LOSSY, QUEUE)
    assert isinstance(chart, BarChart)
    assert [(bar.name, bar.share, bar.failed) for bar in chart.bars] == [
        ("lossy_pass", 0.8, False),
        ("runtime_queue_peak_pass", 0.25, False),
    ]
    assert chart.says == "None is over its budget; nearest to its limit: lossy_pass, 80%."
    broken = budgets(LOSSY, replace(QUEUE, status="FAIL", value=9.0))
    assert isinstance(broken, BarChart)
    assert broken.says == "Over budget: runtime_queue_peak_pass."
    assert budgets(replace(LOSSY, status="NOT_MEASURED", value=None)) == NoPicture(
        "Share of each budget that is used", "no gate of this case has both a value and a limit"
    )


LAYERS = [
    {"layer": 0, "part": "k", "lossless_ratio": 1.5, "bound_ratio": 1.6, "above_bound": False},
    {"layer": 0, "part": "v", "lossless_ratio": 1.2, "bound_ratio": None, "above_bound": False},
    {"layer": 0, "part": "kv", "lossless_ratio": 1.3, "bound_ratio": 1.4, "above_bound": False},
]


def test_layer_ratios_are_drawn_with_the_bounds_that_there_are() -> None:
    (chart,) = offline_pictures({"online_sim": {"lossless_ratio": 1.3, "layers": LAYERS}, "upper_bound": {"lossless_ratio": 1.4}})
    assert isinstance(chart, XyChart)
    assert {series.name: [y for _, y in series.points] for series in chart.series} == {"K": [1.5], "bound of K": [1.6], "V": [1.2]}
    assert chart.table.rows == (("0", "K", "1.500", "1.600"), ("0", "V", "1.200", "n/a"))
    assert "No ratio is above its bound." in chart.says


def test_a_ratio_above_its_bound_is_called_an_error() -> None:
    (chart,) = offline_pictures({"online_sim": {"layers": [{**LAYERS[0], "above_bound": True}]}})
    assert isinstance(chart, XyChart)
    assert "ABOVE their bound, an accounting error: layer 0 K." in chart.says


@pytest.mark.parametrize("offline", [{}, {"online_sim": None}, {"online_sim": {"lossless_ratio": 1.3}}, {"online_sim": {"layers": []}}])
def test_without_layers_there_is_a_reason(offline: dict[str, Any]) -> None:
    (picture,) = offline_pictures(offline)
    assert isinstance(picture, NoPicture)
