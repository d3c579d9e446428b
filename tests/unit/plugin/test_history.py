"""Whole gate runs and what the history keeps of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from h2o_gate_plugin.cli import main
from h2o_gate_plugin.history.database import HISTORY_FILE, open_history
from h2o_gate_plugin.history.run import KeptRun, run_from_folder

from .conftest import GateProject

RUNTIME = ("acceptance", "-m", "runtime")


def kept_runs(project: GateProject, folder: str = "h2o-out") -> tuple[KeptRun, ...]:
    with open_history(project.path / folder / HISTORY_FILE) as history:
        return history.runs()


def in_git(folder: Path) -> str:
    """Make ``folder`` a checkout with one commit, and return that."""
    git = shutil.which("git") or pytest.skip("needs git")
    author = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "mini.yaml"), (*author, "commit", "-q", "-m", "first")):
        subprocess.run([git, *words], cwd=folder, check=True, capture_output=True)
    return subprocess.run([git, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_finished_run_is_kept_with_commit_host_engine_budgets_and_rows(project: GateProject) -> None:
    commit = in_git(project.path)
    (project.path / "mini.yaml").write_text((project.path / "mini.yaml").read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert project.run(*RUNTIME, "--min-lossy=3.1").ret == 0
    (run,) = kept_runs(project)
    assert (run.pack, run.overall_pass, run.incomplete) == ("runtime", True, None)
    assert (run.revision.commit, run.revision.changed) == (commit, True)
    assert run.origin.host == project.summary()["host"]["fingerprint"]
    assert run.origin.engine_sha256 == project.summary()["engine"]["sha256"]
    lossy = next(gate for gate in run.gates if gate.gate == "lossy_pass")
    assert (lossy.value, lossy.limit, lossy.unit, lossy.status, lossy.limit_origin) == (
        3.2,
        3.1,
        "ratio",
        "PASS",
        "command line --min-lossy",
    )
    with open_history(project.path / "h2o-out" / HISTORY_FILE) as history:
        (candidate,), (baseline,) = history.rows("candidate")[run.id], history.rows("baseline")[run.id]
    assert candidate.numbers["h2o_lossy"] == 3.2
    assert set(baseline.numbers) == {"prefill_tps", "decode_tps"}
    from_folder = run_from_folder(project.path / "out")
    assert (from_folder.gates, from_folder.origin, from_folder.plans) == (run.gates, run.origin, run.plans)


def test_artifacts_judged_again_are_not_a_new_run_of_the_history(project: GateProject) -> None:
    project.run(*RUNTIME)
    project.start(*RUNTIME, "--h2o-from=out/h2o_metrics.csv", "--h2o-out=again")
    assert (project.path / "again" / "summary.json").is_file()
    assert len(kept_runs(project)) == 1


def test_a_part_of_a_pack_is_kept_as_partial_and_a_red_one_as_false(project: GateProject) -> None:
    project.run("acceptance", "-m", "runtime and lossy")
    project.scenario(default={"cells": {"h2o_lossy": "2.000 ± 0.000"}})
    project.start(*RUNTIME, *project.engine_options, "--h2o-out=red", "--h2o-history=elsewhere")
    (partial,), (red,) = kept_runs(project), kept_runs(project, "elsewhere")
    assert (partial.overall_pass, partial.incomplete) == (None, "only lossy_pass of runtime/joint_full-1 was judged")
    assert (red.overall_pass, red.incomplete) == (False, None)


def test_a_history_that_cannot_be_written_is_one_warning_line_and_the_verdict_stands(project: GateProject) -> None:
    (project.path / "h2o-out").mkdir()
    (project.path / "h2o-out" / HISTORY_FILE).write_text("no database" * 100, encoding="utf-8")
    result = project.run(*RUNTIME)
    assert result.ret == 0
    warnings = [line for line in result.outlines if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert warnings[0].endswith("the verdict stands, the run is not in the history")
    assert project.summary()["overall_pass"] is True


def test_the_runs_of_workers_are_kept_once_and_shown(project: GateProject, capsys: pytest.CaptureFixture[str]) -> None:
    project.run(*RUNTIME, "-n", "2")
    assert len(kept_runs(project)) == 1
    capsys.readouterr()
    assert main(["history", "decode_pass"]) == 0
    assert "runtime/joint_full-1: decode_pass (share)" in capsys.readouterr().out


def test_runs_are_compared_by_folder_and_by_id_and_artifacts_judged_again_by_their_folder(
    project: GateProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run(*RUNTIME)
    project.start(*RUNTIME, "--h2o-from=out/h2o_metrics.csv", "--h2o-out=again", "--min-lossy=3.3", "--decode-aggregate=avg")
    capsys.readouterr()
    assert main(["compare", "out", "latest"]) == 0
    assert main(["compare", "out", "again"]) == 1
    out = capsys.readouterr().out
    assert "lossy_pass: 3 ratio (default) → 3.3 ratio (command line --min-lossy)" in out
    assert "PASS → FAIL (worse)" in out
