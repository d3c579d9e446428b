"""Two runs side by side: which is worse, in what, and whether they can be compared at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.cli import main
from h2o_gate_plugin.history.comparison import compare
from h2o_gate_plugin.history.comparison_text import comparison_lines, comparison_markdown, comparison_object
from h2o_gate_plugin.history.database import HISTORY_FILE
from h2o_gate_plugin.history.run import KeptGate

from .conftest import CASE, HERE, gate, make_run

Keep = Callable[..., Path]


def lossy(value: float, status: str = "PASS", limit: float = 3.0) -> KeptGate:
    return gate("lossy_pass", value, limit, status, unit="ratio", direction=">=")


def test_better_and_worse_follow_the_direction_of_the_gate() -> None:
    found = compare(make_run(1, gate(value=0.01), lossy(3.2)), make_run(2, gate(value=0.03), lossy(3.4)))
    assert [(change.gate, change.trend) for change in found.changes] == [("decode_pass", "worse"), ("lossy_pass", "better")]
    assert [change.change for change in found.changes] == [pytest.approx(0.02), pytest.approx(0.2)]
    assert found.worse == ()  # both still hold


@pytest.mark.parametrize(
    ("before", "after", "trend"),
    [
        ("PASS", "FAIL", "worse"),
        ("PASS", "NOT_MEASURED", "worse"),
        ("PASS", "INCONCLUSIVE", "worse"),
        ("PASS", "UNPROVEN", "worse"),
        ("PASS", "OFF", "worse"),
        ("PASS", None, "worse"),
        ("OFF", "FAIL", "worse"),
        ("INCONCLUSIVE", "FAIL", "worse"),
        (None, "FAIL", "worse"),
        ("FAIL", "PASS", "better"),
        ("OFF", "PASS", "better"),
        ("FAIL", "NOT_MEASURED", "changed"),
        ("FAIL", "OFF", "changed"),
        ("OFF", "UNPROVEN", "changed"),
        ("FAIL", "FAIL", "same"),
    ],
)
def test_a_status_is_worse_when_less_is_shown_to_hold(before: str | None, after: str | None, trend: str) -> None:
    a, b = ([lossy(3.2), *([gate(status=status)] if status else [])] for status in (before, after))
    found = compare(make_run(1, *a), make_run(2, *b))
    change = next(each for each in found.changes if each.gate == "decode_pass")
    assert change.status_trend == trend
    assert bool(found.worse) == (trend == "worse")


def test_another_host_engine_model_and_plan_are_named_first_and_the_host_is_a_warning() -> None:
    b = make_run(2, gate(), origin=Origin("another", "f" * 64, "d" * 64), plan="other", settings={"--decode-pairs": ("8", "x")})
    found = compare(make_run(1, gate(), settings={"--decode-pairs": ("4", "default"), "--h2o-out": ("here", "default")}), b)
    assert [each.thing for each in found.differences] == ["host", "engine", "model config", f"plan of {CASE}", "commit", "--decode-pairs"]
    assert comparison_lines(found)[2] == "  host: hosthosthost (a CPU) → another (a CPU); speeds and times of two hosts are not comparable"


def test_two_hosts_that_are_not_known_are_a_warning_too() -> None:
    unknown = [replace(make_run(number, gate()), origin=replace(HERE, host=None), revision=Revision()) for number in (1, 2)]
    (difference,) = compare(*unknown).differences
    assert (difference.a, difference.b, difference.matters) == ("not known", "not known", True)


def test_budgets_that_differ_are_told_with_what_set_them_and_only_once_for_a_gate_with_criteria() -> None:
    def quality(number: int, kl: float, origin: str, nearest: float) -> object:
        whole = gate("quality_pass", 0.1, nearest, unit="nats")
        return make_run(number, gate(), whole, gate("quality_pass", 0.1, kl, criterion="KL", unit="nats", origin=origin))

    found = compare(quality(1, 0.4, "default", 0.4), quality(2, 0.3, "command line --max-kl", 1.25))  # type: ignore[arg-type]
    assert "  m3/joint_full-1 quality_pass: KL: 0.4 nats (default) → 0.3 nats (command line --max-kl)" in comparison_lines(found)
    assert len(found.budgets) == 1


def test_a_gate_with_criteria_shows_no_value_of_its_own() -> None:
    def quality(number: int, value: float, unit: str) -> object:
        return make_run(number, gate("quality_pass", value, unit=unit), gate("quality_pass", 0.1, 0.4, criterion="KL", unit="nats"))

    found = compare(quality(1, 0.1, "nats"), quality(2, 1.2, "ratio"))  # type: ignore[arg-type]
    assert found.changes[0].change is None
    whole = next(line for line in comparison_lines(found) if line.startswith("  quality_pass"))
    assert whole.split() == ["quality_pass", "-", "-", "-", "PASS"]


def test_a_gate_that_is_worse_in_many_cases_is_named_once(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [f"m3/{name}" for name in "abc"]
    good = make_run(1, *(gate(case=case) for case in cases), gate("lossy_pass", 3.2, 3.0))
    bad = make_run(2, *(gate(value=0.2, status="FAIL", case=case) for case in cases), gate("lossy_pass", 3.2, 3.0), overall=False)
    assert main(["compare", good.id, bad.id, "--h2o-history", str(kept(good, bad))]) == 1
    assert capsys.readouterr().out.endswith("worse in B: decode_pass (3 cases)\n")


def test_cases_of_one_run_alone_are_named(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kept(make_run(1, gate(), gate(case="m3/b")), make_run(2, gate(), gate(case="m3/c")), make_run(3, gate(case="m3/d")))
    assert main(["compare", "latest~2", "latest~1", "--h2o-history", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "only in A: m3/b\nonly in B: m3/c\nworse in B: no gate's status\n" in out
    assert main(["compare", "latest~1", "latest", "--h2o-history", str(folder)]) == 4
    assert "expected runs with a case in common" in capsys.readouterr().err


def test_the_exit_code_is_1_when_a_gate_is_worse_in_b_and_0_the_other_way_round(kept: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = make_run(1, gate()), make_run(2, gate(value=0.2, status="FAIL"), overall=False)
    words = ["--h2o-history", str(kept(good, bad))]
    assert main(["compare", good.id, "latest", *words]) == 1
    assert "PASS → FAIL (worse)" in (out := capsys.readouterr().out)
    assert out.endswith("worse in B: decode_pass (m3/joint_full-1)\n")
    assert main(["compare", "latest", good.id, *words]) == 0
    assert "FAIL → PASS (better)" in capsys.readouterr().out


def test_json_and_markdown_are_written_beside_the_text_or_printed_in_its_place(
    kept: Keep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "latest~1", "latest", "--h2o-history", str(kept(make_run(1, gate()), make_run(2, gate(value=0.02))))]
    assert main([*words, "--json", "-", "--md", str(tmp_path / "out" / "c.md")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gates"][0]["change"] == pytest.approx(0.01)
    assert (document["a"]["run"], document["worse"]) == ("20261125T000100Z-m3", [])
    text = (tmp_path / "out" / "c.md").read_text(encoding="utf-8")
    assert "| m3/joint_full-1 | decode_pass | 0.010 | 0.020 | +0.010 | share | worse | PASS |" in text
    assert main([*words, "--json", "-", "--md", "-"]) == 4
    assert "expected one of them on standard output" in capsys.readouterr().err


def test_what_is_not_measured_is_null_in_json_and_a_dash_in_text() -> None:
    gone = gate(value=None, status="NOT_MEASURED")
    found = compare(make_run(1, gate()), make_run(2, gone))
    (entry,) = comparison_object(found)["gates"]
    assert (entry["b"]["value"], entry["change"], entry["value_trend"]) == (None, None, None)
    assert "| 0.010 | - | - | share |  | PASS → NOT MEASURED (worse) |" in comparison_markdown(found)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("latest~3", "latest~3: expected more than 3 kept runs, got 1 run; name an earlier one by its folder"),
        ("20261125T000100Z-m4", "did you mean '20261125T000100Z-m3'?"),
        ("xyzzy", "got 'xyzzy'; the latest is 20261125T000100Z-m3"),
        (".", "expected a folder with a summary.json, got one without"),
    ],
)
def test_a_run_that_is_not_there_is_refused_in_one_line(
    kept: Keep, word: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = kept(make_run(1, gate()))
    monkeypatch.chdir(tmp_path)
    assert main(["compare", word, "latest", "--h2o-history", str(folder)]) == 4
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_gate_run_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text('{"schema_version": 1}', encoding="utf-8")
    assert main(["compare", str(tmp_path), str(tmp_path), "--h2o-history", str(tmp_path / HISTORY_FILE)]) == 4
    assert "summary.json: gate run: expected what a gate run writes, got KeyError" in capsys.readouterr().err
