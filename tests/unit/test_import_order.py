"""Imports go one way: a module imports only from its own stage or from stages before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "h2o_gate_plugin"
FIRST = "__init__ errors exit_codes units bench_columns declared outside_file files interrupts kv_options jit plots"
STAGES: tuple[tuple[str, ...], ...] = (
    tuple(FIRST.split()),
    ("kv",),
    ("runtime", "offline"),
    ("bench",),
    ("gates",),
    ("report",),
    ("history",),
    ("options",),
    ("plugin", "session", "progress", "cli"),
)
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT_PYTEST = {"options", "plugin", "session", "progress", "report"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def stage_of(room: str) -> int:
    for index, rooms in enumerate(STAGES):
        if room in rooms:
            return index
    raise AssertionError(f"{room}: no stage; add it to STAGES in {__file__}")


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_its_stage_or_earlier(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("h2o_gate_plugin.")}
    later = {room for room in rooms if not room.startswith("__") and stage_of(room) > stage_of(room_of(path))}
    assert not later, f"{path.name} imports from later stages: {sorted(later)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_plugin_side_imports_pytest(path: Path) -> None:
    uses_pytest = any(name.split(".")[0] in ("pytest", "_pytest", "xdist", "pytest_html") for name in imports_of(path))
    assert not uses_pytest or room_of(path) in MAY_IMPORT_PYTEST


def test_bench_never_imports_the_embedded_engine() -> None:
    offenders = [path.name for path in (PACKAGE / "bench").glob("*.py") if any("h2o_gate_plugin.runtime" in n for n in imports_of(path))]
    assert offenders == []


def test_the_embedded_engine_starts_without_pandas_and_pytest() -> None:
    code = "import sys, h2o_gate_plugin.runtime.llm_bench; print([m for m in ('pandas', 'pytest', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
