"""A new folder for each run; names begin with the UTC time, so that they sort by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from h2o_gate_plugin.errors import ConfigError

RUNS_FOLDER = "h2o-out"
MOST_OF_A_NAME = 999
ANOTHER = "name another by --h2o-out or --out-dir"


def run_folder(base: Path, kind: str, started: datetime | None = None) -> Path:
    """``base/h2o-out/20261125T000715Z-KIND``; not made yet, and perhaps taken."""
    return base / RUNS_FOLDER / f"{started or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}"


def make_own(wanted: Path, make: Callable[[Path], None] = lambda path: path.mkdir(parents=True)) -> Path:
    """Make the folder, or one beside it with a number: two runs that start in the same second have two. Raises ConfigError."""
    for path in (wanted, *(wanted.with_name(f"{wanted.name}-{count}") for count in range(2, MOST_OF_A_NAME + 1))):
        if os.path.lexists(path):
            continue
        try:
            make(path)
        except FileExistsError:
            continue
        except OSError as err:
            raise ConfigError(f"{path}: expected to make the run's folder, got {err.strerror}; {ANOTHER}") from err
        return path
    raise ConfigError(f"{wanted}: expected a name that is free, got {MOST_OF_A_NAME} taken ones; {ANOTHER}")
