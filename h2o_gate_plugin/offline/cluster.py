"""Units measured by the workers of a Dask cluster: the same function, the same results in the same order.

What travels is a unit's listing there and a few numbers back; the workers read the files themselves, so the dump must lie on a file
system that they share, under the same path. A worker that sees less than this process does is an error, never a skipped entry.
Dask runs a unit again when its worker dies, at most `distributed.scheduler.allowed-failures` times; each result is taken once.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import zstandard

from h2o_gate_plugin import __version__
from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.offline.selection import Unit
from h2o_gate_plugin.offline.settings import EvaluatorSettings
from h2o_gate_plugin.offline.unit import UnitResult, unreadable
from h2o_gate_plugin.offline.workers import Finished, Mapper, Measure, in_unit_order

CONNECT_S = 10
WORKERS_S = 30
FILE_REASONS = frozenset({"missing_file", "unreadable_file", "size_mismatch"})
"""Skip reasons that may say more of the worker than of the dump."""


@dataclass(frozen=True)
class Measured:
    """A result, which worker it is of, and what that worker's figures depend on."""

    result: UnitResult
    releases: str
    worker: str


def releases() -> str:
    """What decides the bytes of a frame."""
    return f"h2o-gate {__version__} on zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def measure_on_worker(unit: Unit, measure: Measure) -> Measured:
    """Runs in a worker."""
    from distributed import get_worker

    return Measured(measure(unit), releases(), str(get_worker().address))


@contextmanager
def cluster_mapper(address: str, settings: EvaluatorSettings, connect_s: int = CONNECT_S) -> Iterator[Mapper]:
    """A mapper over the workers of the scheduler at ``address``.

    Raises ConfigError when dask is not installed or no scheduler or worker answers; the mapper raises DumpError when a unit fails on its
    worker, or is measured with other releases, or with less of the dump than this process can read.
    """
    if not re.fullmatch(r"(tcp|tls)://([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", address):
        raise ConfigError(f"offline: --dask-scheduler: expected tcp://HOST:PORT or tls://HOST:PORT, got {address!r}; correct the address")
    try:
        import distributed
    except ImportError as err:
        raise ConfigError(
            "offline: --dask-scheduler: expected dask's distributed, got none installed; run pip install 'pytest-h2o-gate[dask]'"
        ) from err
    try:
        client = distributed.Client(address, timeout=connect_s, set_as_default=False)
    except (OSError, ValueError, TypeError) as err:
        raise ConfigError(
            f"offline: --dask-scheduler: expected a scheduler that answers within {connect_s} s, got none at {address!r} "
            f"({_first_line(err)}); start one with dask scheduler and pass its tcp://HOST:PORT"
        ) from err
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as err:
            raise ConfigError(
                f"offline: --dask-scheduler: expected a worker at {address} within {WORKERS_S} s, got none; "
                f"start one with dask worker {address}"
            ) from err
        yield partial(_mapped, client, settings)


def _mapped(client: Any, settings: EvaluatorSettings, measure: Measure, units: Sequence[Unit], finished: Finished) -> Iterator[UnitResult]:
    from distributed import as_completed

    name = f"h2o-gate-offline-{uuid.uuid4().hex}"
    keys = [f"{name}-{index}" for index in range(len(units))]
    index_of = {key: index for index, key in enumerate(keys)}
    futures = client.map(measure_on_worker, units, measure=measure, key=keys, retries=0)

    def arrivals() -> Iterator[tuple[int, UnitResult]]:
        for future in as_completed(futures, loop=client.loop):
            index = index_of[future.key]
            error = future.exception()
            if error is not None:
                got = f"{type(error).__name__}: {_first_line(error)}"
                raise DumpError(
                    f"{units[index][0].meta_path}: dask: expected a measured unit, got {got}; "
                    "see the worker's log, and install the same h2o-gate on every worker"
                ) from error
            measured: Measured = future.result()
            future.release()
            check_worker(measured, units[index], settings)
            finished(units[index])
            yield index, measured.result

    try:
        yield from in_unit_order(arrivals())
    finally:
        client.cancel(futures, force=True)


def check_worker(measured: Measured, unit: Unit, settings: EvaluatorSettings) -> None:
    """Raises DumpError for a result that this process would not have had."""
    if measured.releases != releases():
        raise DumpError(
            f"{measured.worker}: worker: expected {releases()}, as here, got {measured.releases}; install the same release on every worker"
        )
    if FILE_REASONS & set(measured.result.skip_reasons):
        there = {reason: count for reason, count in measured.result.skip_reasons.items() if reason in FILE_REASONS}
        here = {reason: count for reason, count in unreadable(unit, settings).items() if reason in FILE_REASONS}
        if here != there:
            raise DumpError(
                f"{measured.worker}: worker: expected the files of {unit[0].k_path.parent} as they are here, got {there}; "
                "put the dump on a file system that every worker mounts at this path"
            )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
