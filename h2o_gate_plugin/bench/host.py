"""Facts about the machine and the environment that belong beside a measurement."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from h2o_gate_plugin.errors import EngineError

_ENV_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "MNN_", "H2O_", "KV_LOSSLESS_", "MAX_LOSSLESS_", "PYTEST_XDIST_")
_SHOWN = re.compile(
    r"(?:OMP|OPENBLAS|MKL)_[A-Z_]+|MNN_KV_DUMP_(?:DIR|RUN_ID|STAGE|MAX_TOKENS)|H2O_BENCH_(?:PROMPT|PROMPT_FILE|QUALITY|TRACE)"
    r"|KV_LOSSLESS_RUNTIME_MODE|MAX_LOSSLESS_(?:DECOMP_US|QUEUE_PEAK|FALLBACK)|PYTEST_XDIST_(?:WORKER|WORKER_COUNT|TESTRUNUID)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PWD|KEY|CREDENTIAL|AUTH|CERT|PRIVATE|SESSION|COOKIE|SIGN", re.IGNORECASE)
WITHHELD = "(set; value withheld)"
"""Of a variable that may change a measurement, and may as well hold a secret: that it was set is told, and no more."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_LIBRARIES = ("numpy", "numba", "scipy", "pandas", "zstandard", "tokenizers", "safetensors", "pytest-h2o-gate")


_SCALING_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_IDENTITY = ("cpu", "cores", "usable_cores", "python")


def host_facts() -> dict[str, Any]:
    """CPU, cores, governor, load (1, 5, 15 minutes), OS, Python and library versions, fingerprint. None = the machine does not tell."""
    facts = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _governor(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    return {**facts, "fingerprint": host_fingerprint(facts)}


def host_fingerprint(facts: Mapping[str, Any]) -> str:
    """12 hex digits over CPU, cores, usable cores, the system's name and Python: what decode speeds of two hosts share.

    The kernel's build, the load and the library versions change on one and the same host, and do not count.
    """
    identity = {name: facts.get(name) for name in _IDENTITY} | {"system": str(facts.get("system", "")).partition("-")[0]}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def environment_facts(env: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that can change a measurement; values of those variables alone that are known to hold no secret."""
    return {key: env[key] if _shown(key) else WITHHELD for key in sorted(env) if key.startswith(_ENV_PREFIXES)}


def _shown(name: str) -> bool:
    return _SHOWN.fullmatch(name) is not None and _SECRET.search(name) is None


def timed_run_lock() -> FileLock:
    """The machine-wide lock (per user) that every timed process holds, whichever session starts it.

    Raises EngineError when the lock's folder belongs to someone else.
    """
    folder = Path(tempfile.gettempdir()) / f"h2o-gate-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EngineError(f"{folder}: lock folder: expected a folder of this user, got another's; set TMPDIR to a folder of your own")
    return FileLock(folder / "timed-run.lock")


def pinned_threads(n_threads: int) -> dict[str, str]:
    """Environment that holds the thread pools of OpenMP, BLAS and numba to ``n_threads``."""
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads))


def _governor() -> str | None:
    try:
        return _SCALING_GOVERNOR.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None  # no frequency scaling, or none that this user may read


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
