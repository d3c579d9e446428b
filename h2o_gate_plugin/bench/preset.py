"""Presets: a YAML or JSON file → what to run; and its full product of runs.

The shape of the file::

    description: one line
    prompts: [512, 1024]        # tokens
    gens: [128]                 # tokens
    repeat: 2
    backend: cpu                # optional
    threads: 1                  # optional
    attention_option: 0
    context_tokens: 2048        # optional: prompt and generated tokens together, where prompts come from files (prompt_set.py)
    kv:
      kv_h2o_block_tokens: [16, 32]     # a list sweeps, a scalar is a list of one
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from h2o_gate_plugin.bench.document import Node, load_document
from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvValue, check_kv_values, suite_values

DEFAULT_BACKEND = "cpu"
DEFAULT_THREADS = 1
"""Used where neither the preset nor the user names a count: one core decodes, the others are free to encode. llm_bench's own
default of 4 makes BLAS threads spin against each other on a machine with fewer cores."""

BACKENDS = ("cpu", "opencl", "metal")
_T = TypeVar("_T")
_KEYS = ("description", "prompts", "gens", "repeat", "backend", "threads", "attention_option", "context_tokens", "kv")


@dataclass(frozen=True)
class PromptFile:
    """A prompt that a run reads from ``path``; ``bucket`` in tokens."""

    bucket: int
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """The file's stem as it stands in run ids: ``prompt-128-1``."""
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.path.stem)


@dataclass(frozen=True)
class Preset:
    """``values``: each ``kv_`` key that the preset decides → its sweep list. Every other key takes the suite default.

    ``prompts`` and ``gens`` in tokens; ``repeat`` = measured repeats (the warm-up comes on top); None = not decided here.
    """

    name: str
    path: Path | None
    description: str
    prompts: tuple[int, ...]
    gens: tuple[int, ...]
    repeat: int
    backend: str | None
    threads: int | None
    attention_option: int
    values: Mapping[str, tuple[KvValue, ...]]
    context_tokens: int | None = None


@dataclass(frozen=True)
class BenchConfig:
    """One run: one prompt length, one gen length, one value for every ``kv_`` key; ``prompt_file``: None = the engine's own text."""

    run_id: str
    prompt: int
    gen: int
    repeat: int
    backend: str
    threads: int
    attention_option: int
    values: Mapping[str, KvValue]
    prompt_file: PromptFile | None = None


def presets_folder() -> Path:
    """Where the presets lie: inside the installed package (wheel), or at the top level of the repository (checkout).

    Raises ConfigError when neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    shipped, checkout = package / "presets", package.parent / "presets"
    if shipped.is_dir():
        return shipped
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise ConfigError(f"{shipped}: presets: expected the folder of presets, got nothing; install pytest-h2o-gate again")


def find_file(name_or_path: str | Path, folder: Path, thing: str) -> Path:
    """A path (it has a suffix or a separator) as it is; a bare name looked up in ``folder``. Raises ConfigError."""
    try:
        return _found(Path(name_or_path), folder, thing)
    except (OSError, ValueError) as err:  # too long, a NUL
        raise ConfigError(f"{name_or_path!s:.200}: {thing}: expected a name or a path, got {err!s:.200}; check it") from err


def _found(path: Path, folder: Path, thing: str) -> Path:
    if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"{path}: {thing}: expected a YAML or JSON file, got no such file; check the path")
    found = folder / f"{path}.yaml"
    if found.is_file():
        return found
    names = tuple(sorted(file.stem for file in folder.glob("*.yaml")))
    raise ConfigError(f"{folder}: {thing}: expected the name of a {thing} or a path, got {str(path)!r}; {nearest(str(path), names)}")


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a preset by name or path. Raises ConfigError with file, line and key: unknown key, wrong type, empty sweep."""
    path = find_file(name_or_path, presets_folder(), "preset")
    fields = load_document(path).fields("preset", _KEYS)
    for key in ("prompts", "gens"):
        if key not in fields:
            raise ConfigError(f"{path}: {key}: expected a list of token counts, got nothing; add the key")
    backend = fields["backend"].text("backend") if "backend" in fields else None
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(f"{fields['backend'].place}: backend: expected one of {', '.join(BACKENDS)}, got {backend!r}; correct it")
    kv = fields["kv"].fields("kv", tuple(KV_OPTIONS)) if "kv" in fields else {}
    return Preset(
        name=path.stem,
        path=path,
        description=fields["description"].text("description") if "description" in fields else "",
        prompts=_lengths("prompts", fields["prompts"]),
        gens=_lengths("gens", fields["gens"]),
        repeat=fields["repeat"].integer("repeat", 1) if "repeat" in fields else 5,
        backend=backend,
        threads=fields["threads"].integer("threads", 1) if "threads" in fields else None,
        attention_option=fields["attention_option"].integer("attention_option", 0) if "attention_option" in fields else 0,
        values={key: _sweep(key, node) for key, node in kv.items()},
        context_tokens=fields["context_tokens"].integer("context_tokens", 2) if "context_tokens" in fields else None,
    )


def _lengths(key: str, node: Node) -> tuple[int, ...]:
    return _distinct(key, node, tuple(item.integer(key, 1) for item in node.items()))


def _sweep(key: str, node: Node) -> tuple[KvValue, ...]:
    return _distinct(key, node, tuple(KV_OPTIONS[key].check(item.plain(), item.place) for item in node.items()))


def _distinct(key: str, node: Node, values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ConfigError(f"{node.place}: {key}: expected at least one value to sweep, got []; give a value or remove the key")
    if len(set(values)) != len(values):
        raise ConfigError(f"{node.place}: {key}: expected each value once, got {node.plain()!r}; remove the double one")
    return values


def expand(preset: Preset, overrides: Mapping[str, KvValue], prompt_files: tuple[PromptFile, ...] = ()) -> tuple[BenchConfig, ...]:
    """The full product: every combination of the swept keys, and for each every prompt length, gen length and prompt file.

    An override replaces the key's whole sweep. Run ids count from 1: ``run_0001_p512_g128_k0.3_b32_lr3.2``, and with a prompt file
    ``run_0001_p512_g128@prompt-512-3_k0.3_b32_lr3.2``. Raises ConfigError for an override that is not legal, and for an empty sweep.
    """
    place = str(preset.path or preset.name)
    single = {key: (value,) for key, value in check_kv_values(overrides, f"{place}: overrides").items()}
    sweeps = {**preset.values, **single}
    dimensions = {"prompts": preset.prompts, "gens": preset.gens, **sweeps}
    for key, values in dimensions.items():
        if not values:
            raise ConfigError(f"{place}: {key}: expected at least one value to sweep, got none; give a value")
    configs: list[BenchConfig] = []
    for combination in itertools.product(*sweeps.values()):
        values_of_run = suite_values(dict(zip(sweeps, combination, strict=True)), place)
        for prompt, gen, file in itertools.product(preset.prompts, preset.gens, prompt_files or (None,)):
            configs.append(
                BenchConfig(
                    run_id=_run_id(len(configs) + 1, prompt, gen, file, values_of_run),
                    prompt=prompt,
                    gen=gen,
                    repeat=preset.repeat,
                    backend=preset.backend or DEFAULT_BACKEND,
                    threads=preset.threads or DEFAULT_THREADS,
                    attention_option=preset.attention_option,
                    values=values_of_run,
                    prompt_file=file,
                )
            )
    return tuple(configs)


def _run_id(number: int, prompt: int, gen: int, file: PromptFile | None, values: Mapping[str, KvValue]) -> str:
    keep, block, lossy = (values[key] for key in ("kv_h2o_target_keep_ratio", "kv_h2o_block_tokens", "kv_h2o_target_lossy_ratio"))
    text = "" if file is None else f"@{file.name}"
    return f"run_{number:04d}_p{prompt}_g{gen}{text}_k{keep:g}_b{block}_lr{lossy:g}"
