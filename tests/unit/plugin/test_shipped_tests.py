"""`pytest -m PACK` without a path runs the acceptance tests that ship, in a folder that has none."""

from __future__ import annotations

import re
import shutil

import pytest

from .conftest import GateProject

OWN = "def test_own(h2o_case):\n    assert h2o_case.gate('lossy_pass').value == 3.2\n"


@pytest.fixture
def elsewhere(project: GateProject) -> GateProject:
    """A project without acceptance tests."""
    shutil.rmtree(project.path / "acceptance")
    return project


def collected(project: GateProject, *args: str) -> list[str]:
    """Names of the test files, one per test."""
    lines = project.start(*args, "--collect-only", "-q").outlines
    return re.findall(r"(test_\w+\.py)::", "\n".join(lines))


def test_a_pack_s_marker_alone_runs_its_acceptance_tests(elsewhere: GateProject) -> None:
    result = elsewhere.run("-m", "runtime and (lossy or fallback)")
    result.assert_outcomes(passed=2)
    assert elsewhere.summary()["cases"][0]["id"] == "runtime/joint_full-1"


def test_they_join_tests_of_one_s_own(elsewhere: GateProject) -> None:
    elsewhere.pytester.makepyfile(test_own=OWN)
    assert collected(elsewhere, "-m", "runtime and lossy") == ["test_lossy.py"]
    assert collected(elsewhere, "-m", "runtime").count("test_own.py") == 1


def test_a_typed_path_is_all_that_runs(elsewhere: GateProject) -> None:
    elsewhere.pytester.makepyfile(test_own=OWN)
    assert collected(elsewhere, "test_own.py", "-m", "runtime") == ["test_own.py"]


def test_without_a_pack_s_marker_nothing_joins(elsewhere: GateProject) -> None:
    elsewhere.pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    assert collected(elsewhere) == ["test_plain.py"]
    assert collected(elsewhere, "-m", "lossy") == []


def test_workers_of_xdist_collect_the_same(elsewhere: GateProject) -> None:
    result = elsewhere.run("-n", "2", "-m", "runtime and (lossy or fallback)")
    result.assert_outcomes(passed=2)
