"""decode_pass in whole runs: more pairs while undecided, and baselines that were not measured beside the candidate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.history.database import HISTORY_FILE, add_run, open_history
from h2o_gate_plugin.history.run import KeptRun

from .conftest import GateProject

DECODE = ("acceptance", "-m", "runtime and decode_drop")
ON, OFF = {"kv": "on"}, {"kv": "off"}
VAGUE = [{"when": ON | {"call": call}, "decode": f"{speed}.00 ± 1.00"} for call, speed in enumerate((150, 250, 160, 240, 170, 230), 1)]
"""Candidates that are now slower, now faster than the baseline's 200 tok/s."""


def run(project: GateProject, *args: str, out: str = "out") -> pytest.RunResult:
    """The decode gate alone, by its default rule unless ``args`` say otherwise."""
    engine = [option for option in project.engine_options if not option.startswith(("--decode-", "--h2o-out"))]
    return project.start(*DECODE, *engine, f"--h2o-out={out}", *args)


def gate(project: GateProject, out: str = "out") -> dict[str, Any]:
    (case,) = project.summary(out)["cases"]
    found: dict[str, Any] = next(gate for gate in case["gates"] if gate["name"] == "decode_pass")
    return found


def refusal(result: pytest.RunResult) -> str:
    """The one line of a run that was refused before anything ran."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.errlines if line.strip())
    return line


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every JSON file called ``name`` below ``folder``."""
    for path in folder.rglob(name):
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")


def keep_as(history: Path, run: KeptRun, number: int, baseline_tps: float, **differs: Any) -> None:
    """A later run like ``run`` with another baseline speed."""
    row = replace(next(row for row in run.rows if row.role == "baseline"), numbers={"decode_tps": baseline_tps})
    later = f"2099-01-01T00:00:{number:02}Z"
    add_run(history / HISTORY_FILE, replace(run, id=f"run-{number}", started_utc=later, rows=(row,), **differs))


def on_another_host(folder: Path) -> None:
    """Let the kept run in ``folder`` have been measured on another CPU."""
    rewrite(folder, "manifest.json", lambda manifest: manifest["host"].update(cpu="another CPU"))


def test_pairs_that_agree_are_four_and_the_report_says_how_sure_it_is(project: GateProject) -> None:
    assert run(project).ret == 0
    assert [call["kv"] for call in project.calls()] == ["off", "on", "on", "off"] * 2
    assert gate(project)["status"] == "PASS"
    assert "(4 pairs, look 1 of 5, t); A/A +0.0% ± 0.0% over 3 neighbours" in gate(project)["confidence"]


def test_pairs_that_contradict_each_other_go_on_to_the_most_and_end_inconclusive(project: GateProject) -> None:
    project.scenario(rules=VAGUE)
    result = run(project, "--decode-max-pairs=6")
    assert result.ret == 1
    assert len(project.calls()) == 12
    assert (gate(project)["status"], project.summary()["overall_pass"]) == ("INCONCLUSIVE", False)
    result.stdout.fnmatch_lines(["*inconclusive: *pairs would decide*"])
    kept = project.start(*DECODE, "--h2o-from=out/h2o_metrics.csv", "--h2o-out=kept", "--decode-max-pairs=6", "--decode-inconclusive=pass")
    assert kept.ret == 0
    assert gate(project, "kept")["status"] == "INCONCLUSIVE"
    assert len(project.calls()) == 12


def test_the_time_budget_ends_the_measuring_early(project: GateProject) -> None:
    project.scenario(rules=VAGUE)
    assert run(project, "--decode-max-pairs=6", "--decode-time-budget=0.001").ret == 1
    assert len(project.calls()) == 8
    assert gate(project)["status"] == "INCONCLUSIVE"


def test_a_bare_number_is_refused_for_want_of_its_host_and_may_be_forced(project: GateProject) -> None:
    line = refusal(run(project, "--decode-baseline=200"))
    assert "--decode-baseline: fixed baseline 200 tok/s: expected a baseline of the candidate's host" in line
    assert "--decode-baseline-force=yes" in line
    assert not (project.path / "out").exists()
    assert run(project, "--decode-baseline=200", "--decode-baseline-force=yes").ret == 0
    assert [call["kv"] for call in project.calls()] == ["on"]
    assert gate(project)["source"] == "fixed baseline 200 tok/s"


def test_a_kept_run_of_this_host_is_a_baseline_and_one_of_another_is_refused_unless_forced(project: GateProject) -> None:
    project.scenario(rules=[{"when": OFF, "decode": "250.00 ± 1.00"}])
    run(project, "--decode-pairs=1", "--decode-max-pairs=1", out="kept")
    before = len(project.calls())
    assert run(project, "--decode-baseline=kept").ret == 1
    assert [call["kv"] for call in project.calls()[before:]] == ["on"]
    assert gate(project)["value"] == pytest.approx(0.2)
    assert gate(project)["source"].startswith("baseline of the kept run ")
    on_another_host(project.path / "kept")
    assert "got one of host " in refusal(run(project, "--decode-baseline=kept", out="refused"))
    assert run(project, "--decode-baseline=kept", "--decode-baseline-force=yes", out="forced").ret == 1
    assert gate(project, "forced")["value"] == pytest.approx(0.2)


def test_a_kept_run_without_baselines_is_refused(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime and lossy")
    assert "expected a run with baseline rows" in refusal(run(project, "--decode-baseline=out", out="again"))


def test_the_rolling_baseline_is_the_median_of_the_latest_runs_of_this_host_engine_and_model(project: GateProject) -> None:
    assert "run with --decode-baseline=auto first" in refusal(run(project, "--decode-baseline=rolling"))
    run(project, "--decode-pairs=1", "--decode-max-pairs=1", out="first")
    history = project.path / "h2o-out"
    with open_history(history / HISTORY_FILE) as opened:
        (first,) = opened.runs()
        first = replace(first, rows=opened.rows("baseline")[first.id])
    for number, tps in enumerate((500.0, 190.0, 200.0, 210.0, 220.0, 230.0)):  # the first is too old to count
        keep_as(history, first, number, tps)
    keep_as(history, first, 6, 900.0, origin=replace(first.origin, host="another"))
    keep_as(project.path / "elsewhere", first, 7, 230.0)
    before = len(project.calls())
    assert run(project, "--decode-baseline=rolling").ret == 0
    assert [call["kv"] for call in project.calls()[before:]] == ["on"]
    assert gate(project)["value"] == pytest.approx(1 - 200 / 210)
    assert "rolling baseline, median of 5 runs of " in gate(project)["source"]
    assert run(project, "--decode-baseline=rolling", "--h2o-history=elsewhere", out="one").ret == 1
    assert gate(project, "one")["value"] == pytest.approx(1 - 200 / 230)


def test_a_candidate_of_a_kept_run_is_compared_with_a_baseline_of_its_own_host_only(project: GateProject) -> None:
    for out in ("baseline", "candidate"):
        options = [option for option in project.engine_options if option not in ("--preset", "mini.yaml", "--h2o-out=out")]
        project.start(*DECODE, *options, f"--h2o-out={out}")
    same = project.start(*DECODE, "--h2o-from=candidate", "--decode-baseline=baseline", "--h2o-out=same")
    assert same.ret == 0
    assert gate(project, "same")["source"].startswith("baseline of the kept run ")
    on_another_host(project.path / "candidate")
    assert "got one of host " in refusal(project.start(*DECODE, "--h2o-from=candidate", "--decode-baseline=baseline", "--h2o-out=other"))


def test_a_candidate_faster_than_a_fixed_baseline_by_half_is_not_believed(project: GateProject) -> None:
    result = run(project, "--decode-baseline=110", "--decode-baseline-force=yes")
    assert result.ret == 1
    assert gate(project)["status"] == "NOT_MEASURED"
    result.stdout.fnmatch_lines(["*82% faster than the fixed baseline 110 tok/s, which is not believed*"])
