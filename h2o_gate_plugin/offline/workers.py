"""Map the measuring of units over a few threads and hand the results back in the order of the units.

Threads, not processes: zstd and the kernels work without the interpreter lock, a result is a few numbers, and nothing has to be started
or copied. The threads are daemons: whoever interrupts the caller waits for none of them.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.offline.selection import Unit
from h2o_gate_plugin.offline.unit import UnitResult

Jobs = int | Literal["auto"]
Measure = Callable[[Unit], UnitResult]
Finished = Callable[[Unit], None]

MAX_JOBS = 1024


class Mapper(Protocol):
    """Runs ``measure`` on every unit, in any order and any place, each counted once.

    Yields the results in the order of the units; calls ``finished`` in the caller's thread as they come in, in any order. Raises what
    ``measure`` raises. When the iterator is closed or left by an exception, no further unit is started.
    """

    def __call__(self, measure: Measure, units: Sequence[Unit], finished: Finished) -> Iterator[UnitResult]: ...


def job_count(jobs: Jobs) -> int:
    """``auto``: the cores that this process may use. Raises ConfigError for anything but that word or 1 to 1024."""
    if jobs == "auto":
        return usable_cores()
    if not isinstance(jobs, int) or isinstance(jobs, bool) or not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"offline: --jobs: expected auto or an integer >= 1 and <= {MAX_JOBS}, got {jobs!r}; correct the option")
    return jobs


def usable_cores() -> int:
    """Those of the affinity mask where the system has one: what a container or taskset leaves, not what the machine has."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_mapper(jobs: Jobs) -> Mapper:
    """``jobs`` units at a time in this process; 1: in the caller's own thread. Raises ConfigError as `job_count`."""
    count = job_count(jobs)

    def mapper(measure: Measure, units: Sequence[Unit], finished: Finished) -> Iterator[UnitResult]:
        n_threads = min(count, len(units))
        return _one_by_one(measure, units, finished) if n_threads <= 1 else _threaded(measure, units, finished, n_threads)

    return mapper


def in_unit_order(arrivals: Iterable[tuple[int, UnitResult]]) -> Iterator[UnitResult]:
    """Results by the index of their unit, each held back until those before it have come."""
    early: dict[int, UnitResult] = {}
    wanted = 0
    for index, result in arrivals:
        early[index] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _one_by_one(measure: Measure, units: Sequence[Unit], finished: Finished) -> Iterator[UnitResult]:
    for unit in units:
        result = measure(unit)
        finished(unit)
        yield result


def _threaded(measure: Measure, units: Sequence[Unit], finished: Finished, n_threads: int) -> Iterator[UnitResult]:
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(units)):
        todo.put(index)
    done: queue.SimpleQueue[tuple[int, UnitResult] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                index = todo.get_nowait()
                done.put((index, measure(units[index])))
        except queue.Empty:
            return
        except BaseException as err:  # whatever it is, the caller waits for it and raises it
            done.put(err)

    def arrivals() -> Iterator[tuple[int, UnitResult]]:
        for _ in units:
            arrived = done.get()
            if isinstance(arrived, BaseException):
                raise arrived
            finished(units[arrived[0]])
            yield arrived

    for number in range(n_threads):
        threading.Thread(target=work, name=f"h2o-gate-offline-{number}", daemon=True).start()
    try:
        yield from in_unit_order(arrivals())
    finally:
        stop.set()
