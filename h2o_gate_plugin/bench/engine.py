"""Which llm_bench to run, and the exact line that runs it. The embedded engine and any other go through the same door."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from h2o_gate_plugin.bench.config import read_base_config
from h2o_gate_plugin.bench.preset import BenchConfig
from h2o_gate_plugin.bench.prompt_command import filled
from h2o_gate_plugin.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
REFERENCE_BENCH_CONFIG = PACKAGE / "models" / "reference" / "bench_config.json"
"""The bench config of the reference model that ships."""

EMBEDDED_ENGINE = "embedded"


@dataclass(frozen=True)
class Engine:
    """``name``: "embedded" or the executable's path. ``argv`` starts it. ``sha256`` of the executable (of the engine's
    sources when embedded); ``config_sha256`` of the base config; None when not read. ``prompt_command``: the template that runs an
    external engine on a prompt file; the embedded one reads it by itself."""

    name: str
    argv: tuple[str, ...]
    base_config: Path
    sha256: str | None
    config_sha256: str | None = None
    prompt_command: tuple[str, ...] | None = None


def embedded_engine(model_config: Path | None = None) -> Engine:
    """Our own llm_bench, started by argv with this interpreter. Raises ConfigError for a bad model config."""
    config = (model_config or REFERENCE_BENCH_CONFIG).absolute()
    read_base_config(config)
    argv = (sys.executable, "-m", "h2o_gate_plugin.runtime.llm_bench")
    return Engine(EMBEDDED_ENGINE, argv, config, _sources_sha256(), file_sha256(config))


def external_engine(path: Path | str, model_config: Path | str, prompt_command: tuple[str, ...] | None = None) -> Engine:
    """Any executable that keeps the contract. Raises ConfigError: missing, not executable, model config not JSON."""
    try:
        binary = Path(path).expanduser().absolute()
        found = binary.is_file()
    except (OSError, RuntimeError, ValueError) as err:
        raise ConfigError(f"{path}: llm_bench: expected an executable file, got {err}; check --llm-bench") from err
    if not str(binary).isascii() and any("\ud800" <= letter <= "\udfff" for letter in str(binary)):
        raise ConfigError(f"{str(path)!a}: llm_bench: expected a path in UTF-8, which reports are written in; rename it")
    if not found:
        got = "no such file" if not binary.exists() else "a folder" if binary.is_dir() else "no regular file"
        raise ConfigError(f"{path}: llm_bench: expected an executable file, got {got}; check --llm-bench")
    if not os.access(binary, os.X_OK):
        raise ConfigError(f"{path}: llm_bench: expected an executable file, got a file without the x bit; run chmod +x on it")
    config = Path(model_config).expanduser().absolute()
    read_base_config(config)
    return Engine(str(binary), (str(binary),), config, file_sha256(binary), file_sha256(config), prompt_command)


def engine_argv(engine: Engine, config: BenchConfig, config_path: Path, log_path: Path) -> tuple[str, ...]:
    """The call of the contract: ``-m CONFIG -a BACKEND -t THREADS -qatten N -kv true -p P -n N -rep R -fp LOG``.

    With a prompt file, the engine's prompt command where it has one.
    """
    if config.prompt_file is not None and engine.prompt_command is not None:
        words = {
            "llm_bench": engine.argv[-1],
            "config": str(config_path),
            "prompt_file": str(config.prompt_file.path),
            "log": str(log_path),
            **{name: str(getattr(config, name)) for name in ("prompt", "gen", "repeat", "threads", "backend", "attention_option")},
        }
        return filled(engine.prompt_command, words)
    return (
        *engine.argv,
        *("-m", str(config_path), "-a", config.backend, "-t", str(config.threads), "-qatten", str(config.attention_option)),
        *("-kv", "true", "-p", str(config.prompt), "-n", str(config.gen), "-rep", str(config.repeat), "-fp", str(log_path)),
    )


def changed(engine: Engine) -> str | None:
    """One line when the program is not the one that was chosen: rows of another must not stand under its sha256. None when it is."""
    if engine.sha256 is None:
        return None
    try:
        now = _sources_sha256() if engine.name == EMBEDDED_ENGINE else file_sha256(Path(engine.name))
    except OSError as err:
        return (
            f"{engine.name}: llm_bench: expected the program that the run began with, got {err.strerror or err}; put it back and run again"
        )
    if now == engine.sha256:
        return None
    return (
        f"{engine.name}: llm_bench: expected the program that the run began with (sha256 {engine.sha256[:12]}), got another ({now[:12]}); "
        "run again, and build elsewhere meanwhile"
    )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sources_sha256() -> str:
    """Over the embedded engine's own sources, by name and content."""
    digest = hashlib.sha256()
    files = [PACKAGE / "kv_options.py", PACKAGE / "bench_columns.py", *PACKAGE.glob("kv/*.py"), *PACKAGE.glob("runtime/*.py")]
    for path in sorted(files):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
