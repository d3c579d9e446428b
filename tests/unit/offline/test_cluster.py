"""Units on the workers of a Dask cluster: the same result though a worker dies, and one line for whatever is missing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.offline.cluster import Measured, check_worker, cluster_mapper, releases
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.selection import Unit
from h2o_gate_plugin.offline.settings import EvaluatorSettings
from h2o_gate_plugin.offline.unit import PartSums, UnitResult
from h2o_gate_plugin.offline.unit_progress import UnitProgress
from h2o_gate_plugin.offline.workers import thread_mapper

from .test_workers import units_of

N_UNITS = 60
SETTINGS = EvaluatorSettings(scope="layer_range")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and two worker processes."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def many_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 entries that can be read, 3 that cannot."""
    folder = tmp_path_factory.mktemp("cluster") / "dump"
    rng = np.random.default_rng(0)
    for run in range(N_UNITS + 3):
        keys = rng.normal(size=(130, 2, 32)).astype(np.float16).view(np.uint16)
        meta_path = DumpWriter(folder, f"run_{run:02}").write(0, keys, keys[::-1].copy(), 0, "prefill")
        assert meta_path is not None
        if run >= N_UNITS:
            (meta_path.parent / "v_t0_130.bin").unlink()
    return folder


class KillingProgress(UnitProgress):
    """Kills a worker when the first unit is in."""

    def __init__(self, pid: int) -> None:
        super().__init__(None)
        self._pid: int | None = pid
        self.units_at_death = 0

    def finished(self, unit: Unit) -> None:
        super().finished(unit)
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._pid, self.units_at_death = None, self.units


def test_a_worker_killed_in_the_run_loses_nothing_and_counts_nothing_twice(cluster: Any, many_units: Path) -> None:
    lines: list[str] = []
    here = evaluate(many_units, SETTINGS, log=lines.append, mapper=thread_mapper(2))
    progress = KillingProgress(next(iter(cluster.workers.values())).pid)
    lines_there: list[str] = []
    with cluster_mapper(cluster.scheduler_address, SETTINGS) as mapper:
        there = evaluate(many_units, SETTINGS, log=lines_there.append, mapper=mapper, progress=progress)
    assert progress.units_at_death == 1
    assert (there, lines_there) == (here, lines)
    assert there.selected_entries == N_UNITS
    assert there.skip_reasons == {"missing_file": 3}  # these are missing here too: nothing that a worker alone cannot see
    assert progress.units == N_UNITS + 3


def test_the_cluster_serves_one_evaluation_after_the_other(cluster: Any, dump_dir: Path) -> None:
    grouped = EvaluatorSettings(entry_mode="aggregate")
    with cluster_mapper(cluster.scheduler_address, grouped) as mapper:
        assert [evaluate(dump_dir, grouped, mapper=mapper) for _ in range(2)] == [evaluate(dump_dir, grouped)] * 2


def measured(unit: Unit, reason: str | None = None, by: str | None = None) -> Measured:
    reasons = {} if reason is None else {reason: 1}
    return Measured(UnitResult(unit, PartSums(), PartSums(), reasons, ()), releases() if by is None else by, "tcp://10.0.0.7:4711")


@pytest.mark.parametrize("reason", ["missing_file", "unreadable_file", "size_mismatch"])
def test_a_file_that_only_the_worker_cannot_read_is_an_error_and_no_skipped_entry(dump_dir: Path, reason: str) -> None:
    unit = units_of(1, dump_dir)[0]
    with pytest.raises(DumpError, match=rf"tcp://10.0.0.7:4711: worker: expected .*'{reason}': 1.*every worker mounts at this path"):
        check_worker(measured(unit, reason), unit, SETTINGS)


def test_a_file_that_is_missing_here_too_is_a_skipped_entry(own_dump_dir: Path) -> None:
    unit = units_of(1, own_dump_dir)[0]
    unit[0].k_path.unlink()
    check_worker(measured(unit, "missing_file"), unit, SETTINGS)


def test_a_worker_with_another_release_is_an_error(dump_dir: Path) -> None:
    unit = units_of(1, dump_dir)[0]
    with pytest.raises(DumpError, match=r"got h2o-gate 0\.0\.1 on zstd 1\.4\.0; install the same release on every worker"):
        check_worker(measured(unit, by="h2o-gate 0.0.1 on zstd 1.4.0"), unit, SETTINGS)


@pytest.mark.parametrize("address", ["", "foo", "8786", "http://host:80", "tcp://host", "tcp://host:port", "tcp://a b:1"])
def test_an_address_that_is_none_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--dask-scheduler: expected tcp://HOST:PORT or tls://HOST:PORT, got") as caught, opened(address):
        pass
    assert "\n" not in str(caught.value)


def test_without_dask_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"got none installed; run pip install 'pytest-h2o-gate\[dask\]'"), opened("tcp://host:8786"):
        pass


def test_a_scheduler_that_does_not_answer_is_one_line() -> None:
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with pytest.raises(ConfigError, match=r"answers within 1 s, got none at 'tcp://127.0.0.1:1'") as caught, opened("tcp://127.0.0.1:1", 1):
        pass
    assert "\n" not in str(caught.value)


def opened(address: str, connect_s: int = 10) -> Any:
    return cluster_mapper(address, SETTINGS, connect_s)
