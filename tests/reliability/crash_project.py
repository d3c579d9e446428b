"""A folder with one small gate run on the scripted engine, started as a process group that a test may kill; and what must hold after it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.measurement import load_measurement
from h2o_gate_plugin.history.database import HISTORY_FILE, open_history

REPOSITORY = Path(__file__).parents[2]
ENGINE = REPOSITORY / "tests" / "engines" / "scripted_llm_bench.py"
DYING_PYTEST = Path(__file__).with_name("dying_pytest.py")
MINI = "prompts: [64]\ngens: [8]\nrepeat: 2\nkv: {kv_h2o_target_lossy_ratio: 3.2, kv_h2o_trigger_min_tokens: 32}\n"
OPTIONS = ("--decode-pairs=1", "--decode-max-pairs=1", "--decode-aggregate=avg")
NOT_OURS = ("H2O_", "MAX_LOSSLESS_", "KV_LOSSLESS_", "GITHUB_", "PYTEST_", "SCRIPTED_", "CI")
PATIENCE_S = 30.0


@dataclass(frozen=True)
class CrashProject:
    """``mini``: one run of a small preset in the place of the pack's own two."""

    path: Path
    mini: bool = False

    @staticmethod
    def make(path: Path, mini: bool = False, **scenario: Any) -> CrashProject:
        path.mkdir(parents=True)
        (path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nstrict = true\n", encoding="utf-8")
        (path / "config.json").write_text(json.dumps({"base_dir": "", "scenario": "scenario.json"}), encoding="utf-8")
        (path / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
        (path / "mini.yaml").write_text(MINI, encoding="utf-8")
        (path / "tmp").mkdir()
        return CrashProject(path, mini)

    def argv(self, *args: str, out: str = "out", program: Sequence[str] = ("-m", "pytest")) -> list[str]:
        preset = ("--preset", "mini.yaml") if self.mini else ()
        engine = ("--llm-bench", str(ENGINE), "--model-config", "config.json", *preset)
        fixed = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio", "-m", "runtime", f"--h2o-out={out}", *OPTIONS)
        return [sys.executable, *program, *fixed, *(args or engine)]

    @property
    def environment(self) -> dict[str, str]:
        """Locks of its own; nothing that says how other runs are to be judged."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        return {**kept, "TMPDIR": str(self.path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, argv: Sequence[str] | None = None) -> tuple[int, str]:
        process = self.start(argv or self.argv())
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def summary(self, out: str = "out") -> dict[str, Any] | None:
        path = self.path / out / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def calls(self) -> list[tuple[str, int, bool]]:
        path = self.path / "scenario.json.calls.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [(call["kv"], call["prompt"], call["dump"]) for call in map(json.loads, lines)]

    def spans(self) -> list[tuple[float, float]]:
        """When each engine process started and ended, in order."""
        lines = (self.path / "scenario.json.spans.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted((start, end) for start, end in map(json.loads, lines))

    def assert_nothing_runs_on(self) -> None:
        """No process whose command line names the project's folder, soon after whoever started it is gone."""
        end = time.monotonic() + PATIENCE_S
        while (left := self._running()) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == []

    def _running(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words, state = (process / "cmdline").read_bytes(), (process / "stat").read_bytes()
            except OSError:
                continue  # gone meanwhile
            if str(self.path).encode() in words and b") Z " not in state:
                found.append(words.replace(b"\0", b" ").decode())
        return found

    def assert_honest_and_readable(self) -> None:
        """A pass only of a finished run; every artifact and the history can be read."""
        kept = self._kept()
        summary = self.summary()
        page = self.path / "out" / "summary.md"
        told = page.read_text(encoding="utf-8") if page.exists() else ""
        if (summary is not None and summary["overall_pass"] is True) or "overall_pass: true" in told:
            assert kept
            assert all(measurement.complete for measurement in kept)
        for name in ("run.json", "offline.json", "dump/dump.json"):
            path = self.path / "out" / name
            if path.exists():
                json.loads(path.read_text(encoding="utf-8"))
        history = self.path / "h2o-out" / HISTORY_FILE
        if history.exists() and history.stat().st_size:
            with sqlite3.connect(history) as connection:
                begun = connection.execute("PRAGMA user_version").fetchone() != (0,)
            if begun:  # else killed before its first transaction: an empty file, which the next run fills
                with open_history(history) as opened:
                    opened.runs()

    def _kept(self) -> tuple[Any, ...]:
        return tuple(map(load_measurement, sorted((self.path / "out" / "cases").glob("*/measurement.json"))))

    def assert_goes_on(self, statuses: dict[str, str]) -> None:
        """The same command ends in the same verdict, whether there was anything left to do or not."""
        code, output = self.run()
        summary = self.summary()
        assert summary is not None, output
        assert code == 0 or (code == 4 and "expected no finished run" in output), output
        assert statuses_of(summary) == statuses
        assert summary["overall_pass"] is True
        assert list((self.path / "out").rglob("*.partial")) == []
        assert [measurement.complete for measurement in self._kept()] == [True]


def statuses_of(summary: dict[str, Any]) -> dict[str, str]:
    (case,) = summary["cases"]
    return {gate["name"]: gate["status"] for gate in case["gates"]}
