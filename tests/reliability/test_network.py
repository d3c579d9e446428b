"""Nothing that runs opens a connection: not the pack, not the engine, not the report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.plugin.conftest import GateProject
from tests.unit.plugin.conftest import project as project

GUARD = """\
import os, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["NETWORK_GUARD"], "a") as file:
            file.write(f"{sys.argv} {event} {arguments}\\n")
        raise OSError(f"network: {event}")
sys.addaudithook(refuse)
with open(os.environ["NETWORK_GUARD"] + ".guarded", "a") as file:
    file.write("x")
"""


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """An environment in which every Python process writes down and refuses what it would open."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "guard"), "NETWORK_GUARD": str(tmp_path / "opened")}


def test_the_guard_sees_a_connection(guarded: dict[str, str], tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], env=guarded, capture_output=True, text=True, check=False)
    assert "network: socket." in done.stderr
    assert (tmp_path / "opened").exists()


def test_a_pack_runs_without_the_network(project: GateProject, guarded: dict[str, str], tmp_path: Path) -> None:
    words = ("-m", "pytest", "acceptance", "-m", "runtime", "-p", "no:cacheprovider", "--junitxml=junit.xml", "-n", "1")
    argv = [sys.executable, *words, *project.engine_options]
    env = {**guarded, "TMPDIR": str(project.path)}
    done = subprocess.run(argv, env=env, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "opened").exists(), (tmp_path / "opened").read_text()
    assert len((tmp_path / "opened.guarded").read_text()) > 3  # pytest, its worker, engines


def test_the_embedded_engine_runs_without_the_network(guarded: dict[str, str], tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
    argv = [sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench", "-m", str(model), "-kv", "true", "-p", "32", "-n", "4", "-rep", "1"]
    env = {**guarded, "H2O_BENCH_QUALITY": "off"}
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prompt=32<br>decode=4" in done.stdout
    assert not (tmp_path / "opened").exists()
