"""Log speed ratios of ABBA pairs on simulated hosts: process by process in the order in which the gate runs them. Seeded, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SLOW, SLOW_SHARE = float(np.log(0.7)), 0.05
"""Outliers: 5 % of the processes are 30 % slower."""
LINEAR_DRIFT = 0.2
"""Most that the log speed changes, up or down, over all processes of a run."""
WAVE, SHORTEST_WAVE, LONGEST_WAVE = 0.05, 6.0, 40.0
"""Amplitude of a periodic log speed, and its period in processes."""
AR1 = 0.6


@dataclass(frozen=True)
class Host:
    """``process_sd``: of the log speed of a process. Of two that do not depend on each other the ratio scatters by its 1.41-fold."""

    process_sd: float
    drift: bool = False
    wave: bool = False
    outliers: bool = False
    ar1: float = 0.0


PAIR_5, PROCESS_5 = 0.05 / 2**0.5, 0.05
"""Two readings of `5 % noise`: of the log ratio of a pair, and of each process."""
HOSTS: Mapping[str, Host] = {
    f"{name}, {reading}": Host(sd, **kind)  # type: ignore[arg-type]
    for reading, sd in (("5 % a pair", PAIR_5), ("5 % a process", PROCESS_5))
    for name, kind in {
        "independent": {},
        "linear drift": {"drift": True},
        "periodic drift": {"wave": True},
        "outliers": {"outliers": True},
        "AR(1) 0.6": {"ar1": AR1},
    }.items()
}


def log_ratios(host: Host, true_drop: float, n_runs: int, n_pairs: int, seed: int) -> npt.NDArray[np.float64]:
    """[n_runs, n_pairs]: log(candidate / baseline) of each pair; baseline first in odd pairs, candidate first in even ones."""
    rng = np.random.default_rng(seed)
    n_processes = 2 * n_pairs
    at = np.arange(n_processes)
    fresh = rng.standard_normal((n_runs, n_processes))
    speed = np.empty_like(fresh)
    speed[:, 0] = fresh[:, 0]
    for process in range(1, n_processes):
        speed[:, process] = host.ar1 * speed[:, process - 1] + (1 - host.ar1**2) ** 0.5 * fresh[:, process]
    speed *= host.process_sd
    if host.drift:
        speed += LINEAR_DRIFT * rng.uniform(-1, 1, (n_runs, 1)) * at / n_processes
    if host.wave:
        period, phase = rng.uniform(SHORTEST_WAVE, LONGEST_WAVE, (n_runs, 1)), rng.uniform(0, 2 * np.pi, (n_runs, 1))
        speed += WAVE * np.sin(2 * np.pi * at / period + phase)
    if host.outliers:
        speed += SLOW * (rng.random((n_runs, n_processes)) < SLOW_SHARE)
    pairs = speed.reshape(n_runs, n_pairs, 2)
    second_over_first = pairs[:, :, 1] - pairs[:, :, 0]
    return np.where(np.arange(n_pairs) % 2 == 0, 1.0, -1.0) * second_over_first + float(np.log1p(-true_drop))
