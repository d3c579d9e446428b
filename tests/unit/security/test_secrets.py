"""A secret in the environment stands in no file below the output folder, not in the history, and not on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.bench.host import WITHHELD, environment_facts
from tests.unit.plugin.conftest import GateProject

MARKER = "hunter2-c0ffee-secret"
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "CI_JOB_TOKEN",
    "ACTIONS_RUNTIME_TOKEN",
    "H2O_API_TOKEN",
    "H2O_LICENSE",
    "MNN_SECRET",
    "MNN_API_KEY",
    "MNN_ANYTHING",
    "OMP_AUTH",
    "MKL_LICENSE_KEY",
    "HF_TOKEN",
    "PIP_PASSWORD",
    "DATABASE_URL",
    "SSH_AUTH_SOCK",
    "KV_LOSSLESS_SECRET",
    "MAX_LOSSLESS_PASSWORD",
    "PYTEST_XDIST_KEY",
)


def files_with(marker: str, folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and marker.encode() in path.read_bytes()]


def test_no_artifact_of_a_run_holds_a_secret_of_the_environment(project: GateProject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, MARKER)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    project.scenario(rules=[{"when": {"kv": "on", "dump": False}, "exit": 3}])  # its processes are told whole
    result = project.run("acceptance", "-m", "runtime", "--junitxml=junit.xml")
    assert (project.path / "out" / "summary.json").exists()
    assert list((project.path / "h2o-out").glob("*.sqlite"))
    assert files_with(MARKER, project.path) == []
    assert MARKER not in result.stdout.str() + result.stderr.str()


def test_the_test_finds_a_secret_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.json").write_text(f'{{"token": "{MARKER}"}}')
    assert files_with(MARKER, tmp_path)


def test_what_changes_a_measurement_is_told_and_what_may_hold_a_secret_only_named() -> None:
    facts = environment_facts(
        {"OMP_NUM_THREADS": "2", "MNN_KV_DUMP_DIR": "/d", "H2O_BENCH_PROMPT": "text"}
        | {"MNN_TUNE": "x", "H2O_TOKEN": "x", "OMP_TOKEN": "x", "HOME": "/"}
    )
    assert facts == {
        "H2O_BENCH_PROMPT": "text",
        "H2O_TOKEN": WITHHELD,
        "MNN_KV_DUMP_DIR": "/d",
        "MNN_TUNE": WITHHELD,
        "OMP_NUM_THREADS": "2",
        "OMP_TOKEN": WITHHELD,
    }
