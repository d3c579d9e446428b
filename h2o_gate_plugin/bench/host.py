"""Facts about the machine and the environment that belong beside a measurement."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from h2o_gate_plugin.errors import EngineError

_ENV_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "MNN_", "H2O_", "KV_LOSSLESS_", "MAX_LOSSLESS_", "PYTEST_XDIST_")
_LIBRARIES = ("numpy", "numba", "pandas", "zstandard", "tokenizers", "safetensors", "pytest-h2o-gate")


def host_facts() -> dict[str, Any]:
    """CPU, cores, load (1, 5, 15 minutes), OS, Python and library versions. None = the machine does not tell."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def environment_facts(env: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that can change a measurement; never the whole of it."""
    return {key: env[key] for key in sorted(env) if key.startswith(_ENV_PREFIXES)}


def timed_run_lock() -> FileLock:
    """The machine-wide lock (per user) that every timed process holds, whichever session starts it.

    Raises EngineError when the lock's folder belongs to someone else.
    """
    folder = Path(tempfile.gettempdir()) / f"h2o-gate-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EngineError(f"{folder}: lock folder: expected a folder of this user, got another's; set TMPDIR to a folder of your own")
    return FileLock(folder / "timed-run.lock")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or None
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine() or None
