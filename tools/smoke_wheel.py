"""Install a wheel into a clean virtual environment outside the repository and use it there as a user would: `make smoke`.

Prints each command, its seconds and the lines that matter; ends with 1 at the first that does not do what it should.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PRESET = Path(__file__).parents[1] / "tests" / "faults" / "settings" / "short.yaml"
INSIDE = (
    "py.typed", "presets/target_core_gate_v6.yaml", "presets/packs/m3.yaml", "presets/prompts/prompt_128_1.txt",
    "models/reference/model.safetensors", "models/reference/heldout.txt", "acceptance/test_overall.py",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """``folder``: an empty project with its environment inside, where pytest looks into nothing by itself."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / ".venv" / "bin"

    def run(self, command: str, *expected: str, code: int = 0) -> str:
        """Run ``command`` with the environment's programs first. Ends the program unless it exits with ``code`` and prints ``expected``."""
        words = shlex.split(command)
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS")}
        start_s = time.monotonic()
        done = subprocess.run([str(self.bin / words[0]), *words[1:]], cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        text = done.stdout + done.stderr
        missing = [part for part in expected if part not in text]
        print(f"$ {command}   # {time.monotonic() - start_s:.0f} s, exit code {done.returncode}", flush=True)
        if done.returncode != code or missing:
            print(text)
            sys.exit(f"smoke: {command}: expected exit code {code} and {expected!r} in its output, got {done.returncode}; see above")
        for line in text.splitlines():
            if any(part in line for part in expected):
                print(f"  {line}")
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the clean environment (default: this one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h2o-gate-smoke-") as folder:
        place = Place(Path(folder).resolve())
        made = subprocess.run([args.python, "-m", "venv", str(place.folder / ".venv")], check=False)
        if made.returncode:
            sys.exit(f"smoke: {args.python}: expected an interpreter that makes an environment, got exit code {made.returncode}; see above")
        place.run(f"pip --disable-pip-version-check --quiet install {shlex.quote(str(args.wheel.resolve()))}")
        use(place)
    print("smoke: the wheel works")


def use(place: Place) -> None:
    place.run("python --version", "Python 3.")
    place.run("h2o-gate --version", "h2o-gate ")
    package = Path(place.run("python -c 'import h2o_gate_plugin; print(h2o_gate_plugin.__path__[0])'", ".venv").strip())
    missing = [name for name in INSIDE if not (package / name).is_file()]
    if missing or not package.is_relative_to(place.folder):
        sys.exit(f"smoke: {package}: expected {', '.join(INSIDE)} below {place.folder}, got none of {missing}")
    place.run("h2o-gate where", str(place.bin / "llm_bench"), "bench_config.json")
    place.run("h2o-gate sweep --preset target_core_gate_v6 --dry-run", "run_0001_")
    place.run("pytest -m m3 --collect-only -q", "test_overall.py::test_every_enabled_gate_holds[m3/joint_store-1]")
    shutil.copy(PRESET, place.folder)
    (place.folder / "own.yaml").write_text("cases: [{case: short, preset: short.yaml}]\n", encoding="utf-8")
    place.run("pytest -m 'own and (lossy or fallback or scope)' --packs=own.yaml --h2o-out=gates", "3 passed")
    again = "--packs=own.yaml --h2o-from=gates"
    place.run(f"pytest --pyargs h2o_gate_plugin.acceptance -m 'own and lossy' {again} --h2o-out=again", "1 passed")
    place.run(f"pytest -n 2 -m 'own and (lossy or fallback)' {again} --h2o-out=two-workers", "2 passed")
    place.run(f"pytest -m 'own and lossy' {again} --min-lossy=9 --h2o-out=red", "own/short-1", "1 failed", code=1)
    place.run("pytest", "no pack selected", code=5)


if __name__ == "__main__":
    main()
