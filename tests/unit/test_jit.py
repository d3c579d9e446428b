"""Compiled kernels: their machine code on disk belongs to exactly these sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h2o_gate_plugin
from h2o_gate_plugin.jit import sources_digest

PACKAGE = Path(h2o_gate_plugin.__file__).parent
HEAD = "from h2o_gate_plugin.jit import kernel\n\n@kernel\n"
INNER = HEAD + "def inner(x: int) -> int:\n    return x + {step}\n"
OUTER = "from h2o_gate_plugin.kv.inner import inner\n" + HEAD + "def outer(x: int) -> int:\n    return inner(x)\n"


def test_any_change_of_any_source_is_another_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a = 1\n")
    two.write_text("b = 2\n")
    before = sources_digest([one, two])
    assert sources_digest([two, one]) == before
    two.write_text("b = 3\n")
    assert sources_digest([one, two]) != before


def test_a_kernel_whose_callee_changed_in_another_file_is_compiled_again(tmp_path: Path) -> None:
    """numba alone would run the old machine code: it looks at the outer kernel's file."""
    package = tmp_path / "h2o_gate_plugin"
    (package / "kv").mkdir(parents=True)
    for name in ("__init__.py", "jit.py"):
        shutil.copy(PACKAGE / name, package / name)
    (package / "kv" / "outer.py").write_text(OUTER)
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | {"PYTHONPATH": str(tmp_path)}

    def result() -> str:
        argv = [sys.executable, "-c", "from h2o_gate_plugin.kv.outer import outer; print(outer(40))"]
        return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    (package / "kv" / "inner.py").write_text(INNER.format(step=1))
    assert [result(), result()] == ["41", "41"]
    (package / "kv" / "inner.py").write_text(INNER.format(step=2))
    assert result() == "42"
