"""Runs as a gate session keeps them, with as many figures as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.baselines import Origin
from h2o_gate_plugin.bench.revision import Revision
from h2o_gate_plugin.history.database import HISTORY_FILE, add_run
from h2o_gate_plugin.history.run import KeptGate, KeptRow, KeptRun

CASE = "m3/joint_full-1"
HERE = Origin("hosthosthost", "e" * 64, "c" * 64)

MakeRun = Callable[..., KeptRun]


def gate(
    name: str = "decode_pass",
    value: float | None = 0.01,
    limit: float | None = 0.05,
    status: str = "PASS",
    criterion: str | None = None,
    unit: str = "share",
    direction: str = "<=",
    origin: str = "default",
    case: str = CASE,
) -> KeptGate:
    return KeptGate(case, name, criterion, status, value, limit, unit, direction, origin)


def row(role: str = "candidate", pair: int = 1, run_id: str = "run_0001_p512_g128", plan: str = "plan", **numbers: float) -> KeptRow:
    return KeptRow(plan, role, run_id, pair, 512, 128, "CPU", "1", numbers)


def make_run(
    number: int,
    *gates: KeptGate,
    rows: tuple[KeptRow, ...] = (),
    pack: str = "m3",
    origin: Origin = HERE,
    engine: str = "embedded",
    incomplete: str | None = None,
    overall: bool | None = True,
    settings: dict[str, tuple[str, str]] | None = None,
    plan: str = "plan",
    cases: tuple[str, ...] = (),
) -> KeptRun:
    """The ``number``-th run of a day, a minute after the one before."""
    judged = tuple(dict.fromkeys(each.case for each in gates)) or cases or (CASE,)
    return KeptRun(
        id=f"20261125T00{number:02}00Z-{pack}",
        started_utc=f"2026-11-25T00:{number:02}:00Z",
        seconds=60.0,
        folder=Path("/runs") / str(number),
        pack=pack,
        overall_pass=overall,
        incomplete=incomplete,
        engine=engine,
        origin=origin,
        cpu="a CPU",
        revision=Revision(f"{number:02}" * 20, number % 2 == 1),
        version="0.1.0",
        settings=settings or {},
        plans=dict.fromkeys(judged, plan),
        gates=gates,
        rows=rows,
    )


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Path]:
    """``kept(run, …)`` → the folder of a history with these runs."""

    def keep(*runs: KeptRun) -> Path:
        for run in runs:
            add_run(tmp_path / HISTORY_FILE, run)
        return tmp_path

    return keep
