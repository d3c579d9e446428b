"""xdist in every shape gives one summary, and runs beside each other on one machine never measure at the same time."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .crash_project import CrashProject

MEASURED = {"started_utc", "seconds", "host"}
"""What two runs may differ in, although the scripted engine's figures are fixed."""
WHOLE = [("off", 512, False), ("on", 512, False), ("off", 1024, False), ("on", 1024, False), ("off", 1024, True)]
DISTS = ("load", "loadscope", "loadgroup", "worksteal")
SHAPES = [("-n0",), *((f"-n{workers}", f"--dist={dist}") for workers in (1, 2, 8) for dist in DISTS)]


def comparable(project: CrashProject) -> str:
    """summary.json without what was timed, and without the project's own place."""
    summary: dict[str, Any] = project.summary() or {}
    return json.dumps({key: value for key, value in summary.items() if key not in MEASURED}, indent=1).replace(str(project.path), "PROJECT")


def test_every_shape_of_xdist_gives_the_same_summary_and_starts_each_process_once(tmp_path: Path) -> None:
    alone = CrashProject.make(tmp_path / "alone")
    assert alone.run()[0] == 0
    expected = comparable(alone)
    for number, shape in enumerate(SHAPES):
        project = CrashProject.make(tmp_path / f"shape{number}")
        code, output = project.run([*project.argv(), *shape])
        assert code == 0, (shape, output)
        assert project.calls() == WHOLE, shape
        assert comparable(project) == expected, shape


def test_a_red_gate_is_red_in_every_shape(tmp_path: Path) -> None:
    """A summary that is always the same could also be one that is always green."""
    for number, shape in enumerate([("-n0",), ("-n2", "--dist=load"), ("-n8", "--dist=worksteal")]):
        project = CrashProject.make(tmp_path / f"red{number}", rules=[{"when": {"kv": "on"}, "decode": "100.00 ± 1.00"}])
        code, output = project.run([*project.argv(), *shape])
        assert code == 1, (shape, output)
        summary = project.summary() or {}
        assert (summary["overall_pass"], [line.partition(":")[0] for line in summary["failures"]]) == (False, ["decode_pass"])


def test_timed_runs_of_two_runs_at_once_never_overlap(tmp_path: Path) -> None:
    """Two runs with two workers each, of one user on one machine: they share TMPDIR, where the lock of timed runs lies."""
    projects = [CrashProject.make(tmp_path / name, default={"spans": True}) for name in ("first", "second")]
    (projects[1].path / "tmp").rmdir()
    (projects[1].path / "tmp").symlink_to(projects[0].path / "tmp")
    with ThreadPoolExecutor(2) as pool:
        codes = [code for code, _ in pool.map(lambda project: project.run([*project.argv(), "-n2"]), projects)]
    assert codes == [0, 0]
    spans = sorted(span for project in projects for span in project.spans())
    assert len(spans) == 2 * len(WHOLE)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_of_two_runs_into_one_folder_one_is_refused_and_the_other_is_whole(tmp_path: Path) -> None:
    project = CrashProject.make(tmp_path / "shared")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: project.run(), range(2)))
    codes = sorted(code for code, _ in results)
    assert codes == [0, 4]
    refused = next(output for code, output in results if code == 4)
    assert re.search(r"--h2o-out: .*another run is at work|expected no finished run", refused)
    assert project.calls() == WHOLE
    assert (project.summary() or {})["overall_pass"] is True


@pytest.mark.parametrize("left", ["run.lock", "offline.lock", "tmp"])
def test_lock_files_of_processes_that_are_gone_hold_nobody_up(tmp_path: Path, left: str) -> None:
    project = CrashProject.make(tmp_path / "left")
    if left == "tmp":
        folder = project.path / "tmp" / f"h2o-gate-{os.getuid()}"
        folder.mkdir(mode=0o700)
        (folder / "timed-run.lock").write_text("1", encoding="utf-8")
    else:
        (project.path / "out").mkdir()
        (project.path / "out" / left).write_text("1", encoding="utf-8")
    code, output = project.run()
    assert code == 0, output
