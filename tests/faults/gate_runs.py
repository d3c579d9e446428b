"""A gate run as its users start it: a pytest process on tests/acceptance, and what its summary.json says of the gates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2o_gate_plugin.bench.engine import REFERENCE_BENCH_CONFIG

FAULTS = Path(__file__).parent
ACCEPTANCE = FAULTS.parent / "acceptance"
SETTINGS = FAULTS / "settings"
REFUSED = "refused"
"""In the place of a gate's name: pytest ended with a usage error before anything was measured."""
RED = ("FAIL", "NOT_MEASURED", "INCONCLUSIVE")
USAGE_ERROR_EXIT = 4
RUN_LIMIT_S = 600
MOST_PAIRS = 32
"""For runs that are timed: twelve more than by default, as many as a busy host may need to tell 10 % from 0."""
OWN_VARIABLES = ("H2O_", "MNN_KV_DUMP_", "KV_LOSSLESS_", "MAX_LOSSLESS_", "PYTEST_", "SCRIPTED_BENCH")
WITHOUT_QUALITY = {"H2O_BENCH_QUALITY": "off"}
"""For faults whose gate reads nothing of quality: half of a process's time."""


@dataclass(frozen=True)
class GateCommand:
    """``options`` of ``pytest tests/acceptance``, ``environment`` beside ours. ``alone``: under the machine's lock of timed runs."""

    options: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False


Arrange = Callable[[Path], GateCommand]
"""Prepares an empty folder and says what to run on it."""


@dataclass(frozen=True)
class Gate:
    """``shown``: value against limit, of a gate with criteria those that do not hold."""

    name: str
    status: str
    shown: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """``gates``: judged ones by name; one named REFUSED where pytest refused to start."""

    gates: Mapping[str, Gate]
    output: str

    @property
    def red(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates.values() if gate.status in RED)


def run_gates(folder: Path, arrange: Arrange) -> Outcome:
    """Run the gates once. Raises RuntimeError, with the end of the output, for a run that neither judged nor was refused."""
    command = arrange(folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OWN_VARIABLES)}
    if not command.alone:  # a lock of its own, so that two runs may go side by side
        (folder / "tmp").mkdir()
        environment["TMPDIR"] = str(folder / "tmp")
    words = ("-q", "-p", "no:cacheprovider", "-p", "no:html", *command.options, f"--h2o-out={folder / 'out'}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(ACCEPTANCE), *words],
        env={**environment, **command.environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    summary = folder / "out" / "summary.json"
    if summary.is_file():
        return Outcome(_gates(json.loads(summary.read_text(encoding="utf-8"))), done.stdout)
    if done.returncode == USAGE_ERROR_EXIT:
        reason = " ".join(done.stdout.split())
        return Outcome({REFUSED: Gate(REFUSED, "FAIL", f"exit {USAGE_ERROR_EXIT}", reason)}, done.stdout)
    raise RuntimeError(f"{folder}: expected a summary.json or a usage error, got exit {done.returncode}: {done.stdout[-2000:]}")


def _gates(summary: Mapping[str, Any]) -> dict[str, Gate]:
    (case,) = summary["cases"]
    return {gate["name"]: Gate(gate["name"], gate["status"], _shown(gate), gate["reason"] or "") for gate in case["gates"]}


def _shown(gate: Mapping[str, Any]) -> str:
    missed = [criterion for criterion in gate["criteria"] if not _holds(criterion)]
    if missed:
        return ", ".join(f"{each['name']} {each['value']:.3g} (limit {each['direction']} {each['limit']:g})" for each in missed)
    if gate["value"] is None:
        return "no value"
    limit = "" if gate["limit"] is None else f" (limit {gate['limit']:g} {gate['unit']})"
    return f"{gate['value']:.4g}{limit}"


def _holds(criterion: Mapping[str, Any]) -> bool:
    value, limit = float(criterion["value"]), float(criterion["limit"])
    return value >= limit if criterion["direction"] == ">=" else value <= limit


class GateRuns:
    """Runs that were asked for in advance go two at a time; one that is to be alone starts when those are done."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(workers)
        self._runs: dict[str, Future[Outcome]] = {}

    def start(self, name: str, arrange: Arrange) -> None:
        """Once per name."""
        if name not in self._runs:
            folder = self._folder / name
            folder.mkdir()
            self._runs[name] = self._pool.submit(run_gates, folder, arrange)

    def outcome(self, name: str) -> Outcome:
        return self._runs[name].result()

    def wait(self) -> None:
        for run in self._runs.values():
            run.exception()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def write_launcher(folder: Path, fault: str) -> Path:
    """An executable llm_bench with one fault in it, for --llm-bench."""
    launcher = folder / f"{fault}_llm_bench"
    lines = (
        f"#!{sys.executable}",
        "import sys",
        f"sys.path.insert(0, {str(FAULTS.parent)!r})",
        f"from {FAULTS.name}.faulty_llm_bench import main",
        f"sys.exit(main({fault!r}))",
    )
    launcher.write_text("\n".join(lines) + "\n", encoding="utf-8")
    launcher.chmod(0o755)
    return launcher


def engine_run(
    fault: str,
    setting: str,
    *,
    gates: Sequence[str],
    quality: bool,
    options: Sequence[str] = (),
    alone: bool = False,
    model_config: Path = REFERENCE_BENCH_CONFIG,
) -> Arrange:
    """The embedded engine with ``fault`` planted, on settings/``setting``.yaml. ``gates``: markers of the gates to judge."""

    def arrange(folder: Path) -> GateCommand:
        words = (
            *("-m", f"runtime and ({' or '.join(gates)})"),
            f"--llm-bench={write_launcher(folder, fault)}",
            f"--model-config={model_config}",
            f"--preset={SETTINGS / setting}.yaml",
            "--require-evidence=all",
            f"--decode-pairs={4 if alone else 1}",
            f"--decode-max-pairs={MOST_PAIRS if alone else 1}",
            *options,
        )
        return GateCommand(words, {} if quality else WITHOUT_QUALITY, alone)

    return arrange
