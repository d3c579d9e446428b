"""kill -9 of a whole gate run at 50 moments spread over it: no lie, no file that cannot be read, no engine left, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .crash_project import CrashProject, statuses_of

KILLS = 50
SEED = 7
AT_ONCE = 2


def test_a_run_that_is_killed_at_any_moment_tells_no_lie_and_goes_on(tmp_path: Path) -> None:
    whole = CrashProject.make(tmp_path / "whole")
    started = time.monotonic()
    code, output = whole.run()
    seconds = time.monotonic() - started
    assert code == 0, output
    statuses = statuses_of(whole.summary() or {})
    draw = random.Random(SEED)
    moments = [(number + draw.random()) / KILLS * seconds for number in range(KILLS)]

    def kill_at(number: int) -> str:
        project = CrashProject.make(tmp_path / f"kill{number}")
        process = project.start(project.argv())
        time.sleep(moments[number])
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        project.assert_nothing_runs_on()
        project.assert_honest_and_readable()
        place = where(project)
        if place == "measured" and number % 4 == 0:
            judged, output = project.run(project.argv("--h2o-from=out", out="judged"))
            assert judged in (0, 1, 10), output
            partial = project.summary("judged")
            assert partial is not None, output
            assert partial["overall_pass"] is not True or project.summary() is not None or "cut short" not in output
        project.assert_goes_on(statuses)
        return place

    with ThreadPoolExecutor(AT_ONCE) as pool:
        places = list(pool.map(kill_at, range(KILLS)))
    assert {"measured"} < set(places)  # before, within and after the measuring


def where(project: CrashProject) -> str:
    if project.summary() is not None:
        return "reported"
    return "measured" if list((project.path / "out").glob("cases/*/measurement.json")) else "started"
