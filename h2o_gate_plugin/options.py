"""Every option of the group ``h2o-gate``, declared once: flag, ini key, environment names, default.

Order: command line > environment > ini > pack or preset > default; each value keeps where it came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from h2o_gate_plugin.bench.preset import BACKENDS
from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.gates.limits import AGGREGATES, Aggregate, Limits
from h2o_gate_plugin.kv_options import RUNTIME_MODES

GROUP = "h2o-gate"
DEFAULT_TIMEOUT_S = 900.0
DEFAULT_PAIRS = 3
DEFAULT_MAX_PAIRS = 12

Parse = Callable[[str, str, Path], Any]
"""(text, place, folder that relative paths start from) → value; raises ConfigError."""


def _number(text: str, place: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise ConfigError(f"{place}: expected {expected}, got {text!r}") from err
    if not math.isfinite(value):
        raise ConfigError(f"{place}: expected {expected}, got {text!r}")
    return value


def parse_limit(unit: str, below: float = math.inf) -> Parse:
    top = f" and < {below:g}" if below < math.inf else ""
    expected = f"a number >= 0{top} ({unit}), or -1 or off to switch the gate's limit off"

    def parse(text: str, place: str, folder: Path) -> float | None:
        if text.strip().lower() in ("off", "-1"):
            return None
        value = _number(text, place, expected)
        if not 0 <= value < below:
            raise ConfigError(f"{place}: expected {expected}, got {text!r}")
        return value

    return parse


def parse_baseline(text: str, place: str, folder: Path) -> float | None:
    if text == "auto":
        return None
    expected = "auto (measured in the same batch) or a number > 0 (tok/s)"
    value = _number(text, place, expected)
    if value <= 0:
        raise ConfigError(f"{place}: expected {expected}, got {text!r}")
    return value


def _count(text: str, place: str, folder: Path) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ConfigError(f"{place}: expected a whole number >= 1, got {text!r}")
    return int(text)


def _seconds(text: str, place: str, folder: Path) -> float:
    value = _number(text, place, "a number > 0 (s)")
    if value <= 0:
        raise ConfigError(f"{place}: expected a number > 0 (s), got {text!r}")
    return value


def _word(*words: str) -> Parse:
    def parse(text: str, place: str, folder: Path) -> str:
        if text not in words:
            raise ConfigError(f"{place}: expected one of {', '.join(words)}, got {text!r}; {nearest(text, words)}")
        return text

    return parse


def _path(text: str, place: str, folder: Path) -> Path:
    return (folder / Path(text).expanduser()).absolute()


def _existing(text: str, place: str, folder: Path) -> Path:
    path = _path(text, place, folder)
    if not path.exists():
        raise ConfigError(f"{place}: expected an existing path, got {text!r}; there is no {path}")
    return path


def _text(text: str, place: str, folder: Path) -> str:
    return text


@dataclass(frozen=True)
class Option:
    """``name`` is the field of Settings; ``seed_env`` the environment names that the seed's shell scripts used."""

    name: str
    flag: str
    metavar: str
    parse: Parse
    default: Any
    help: str
    seed_env: tuple[str, ...] = ()

    @property
    def ini(self) -> str:
        """``h2o_`` and the flag: ``--h2o-out`` → ``h2o_out``, ``--decode-baseline`` → ``h2o_decode_baseline``."""
        return "h2o_" + self.flag.removeprefix("--").removeprefix("h2o-").replace("-", "_")

    @property
    def env(self) -> tuple[str, ...]:
        return (self.ini.upper(), *self.seed_env)


OPTIONS: tuple[Option, ...] = (
    Option("max_decomp_us", "--max-decomp-us", "US", parse_limit("us"), None,
           "budget of runtime_decomp_pass in us per run; default: the pack's, else off (evidence > 0 is always asked for)",
           ("MAX_LOSSLESS_DECOMP_US",)),
    Option("max_queue_peak", "--max-queue-peak", "BLOCKS", parse_limit("blocks"), 8.0,
           "limit of runtime_queue_peak_pass (default 8)", ("MAX_LOSSLESS_QUEUE_PEAK",)),
    Option("max_fallback", "--max-fallback", "BLOCKS", parse_limit("blocks"), 0.0,
           "limit of runtime_fallback_pass (default 0)", ("MAX_LOSSLESS_FALLBACK",)),
    Option("max_decode_drop", "--max-decode-drop", "SHARE", parse_limit("share", below=1.0), 0.05,
           "limit of decode_pass: 1 - decode speed / baseline speed (default 0.05)"),
    Option("min_lossy", "--min-lossy", "RATIO", parse_limit("ratio"), 3.0, "limit of lossy_pass (default 3.0)"),
    Option("min_online_lossless", "--min-online-lossless", "RATIO", parse_limit("ratio"), 1.3,
           "limit of lossless_online_pass (default 1.3)"),
    Option("decode_baseline_tps", "--decode-baseline", "auto|TPS", parse_baseline, None,
           "baseline of decode_pass: auto (default) measures it in the same batch, a number (tok/s) fixes it"),
    Option("aggregate", "--aggregate", "|".join(AGGREGATES), _word(*AGGREGATES), "worst-row",
           "row that decides lossy_pass: the worst of the best configuration (default), or the best of all"),
    Option("decode_pairs", "--decode-pairs", "N", _count, DEFAULT_PAIRS,
           f"interleaved baseline and candidate processes per run (default {DEFAULT_PAIRS}); more while the drop is undecided"),
    Option("decode_max_pairs", "--decode-max-pairs", "N", _count, DEFAULT_MAX_PAIRS,
           f"most pairs per run (default {DEFAULT_MAX_PAIRS}, or --decode-pairs when that is more)"),
    Option("case_timeout_s", "--case-timeout", "S", _seconds, DEFAULT_TIMEOUT_S,
           f"seconds after which one llm_bench process is stopped (default {DEFAULT_TIMEOUT_S:g})"),
    Option("llm_bench", "--llm-bench", "PATH", _path, None, "llm_bench executable (default: the embedded engine)"),
    Option("model_config", "--model-config", "PATH", _path, None, "config.json of the model (default: the reference model)"),
    Option("dump_dir", "--dump-dir", "DIR", _existing, None,
           "KV dump for the offline evaluator (default: the engine makes one)"),
    Option("preset", "--preset", "NAME|PATH", _text, None, "preset that the pack `runtime` runs instead of its own"),
    Option("runtime_mode", "--runtime-mode", "|".join(RUNTIME_MODES), _word(*RUNTIME_MODES), None,
           "lossless runtime mode that the pack `runtime` runs instead of its own", ("KV_LOSSLESS_RUNTIME_MODE",)),
    Option("threads", "--threads", "N", _count, None, "threads of the engine (default: the preset's)"),
    Option("backend", "--backend", "|".join(BACKENDS), _word(*BACKENDS), None, "backend of the engine (default: the preset's)"),
    Option("out_dir", "--h2o-out", "DIR", _path, None, "folder for artifacts and reports (default h2o-out/<UTC time>-<pack>)"),
    Option("from_dir", "--h2o-from", "DIR", _existing, None,
           "gate kept artifacts, llm_bench logs or an h2o_metrics.csv again; starts no engine"),
)  # fmt: skip

LIMIT_NAMES = (
    "min_lossy", "min_online_lossless", "max_decode_drop", "max_decomp_us", "max_queue_peak", "max_fallback",
    "decode_baseline_tps", "aggregate",
)  # fmt: skip


@dataclass(frozen=True)
class CaseBudget:
    """One of the seed's environment variables that set the decompression budget of some cases; wins over MAX_LOSSLESS_DECOMP_US."""

    env: str
    cases: str
    """Regular expression over whole case ids."""


CASE_BUDGETS: tuple[CaseBudget, ...] = (
    CaseBudget("FULL_DECOMP_BUDGET_US", r"final/(joint_)?full(-\d+)?"),
    CaseBudget("STORE_DECOMP_BUDGET_US", r"final/(joint_)?store(-\d+)?"),
    CaseBudget("COVERAGE_DECOMP_BUDGET_US", r"final/(full_)?coverage(-\d+)?"),
    CaseBudget("M3_DECOMP_BUDGET_US", r"(final/)?m3/.+"),
)


@dataclass(frozen=True)
class Settings:
    """One value per option; ``origins``: field → `command line --x`, `environment X`, `ini x` or `default`."""

    max_decomp_us: float | None
    max_queue_peak: float | None
    max_fallback: float | None
    max_decode_drop: float | None
    min_lossy: float | None
    min_online_lossless: float | None
    decode_baseline_tps: float | None
    aggregate: Aggregate
    decode_pairs: int
    decode_max_pairs: int
    case_timeout_s: float
    llm_bench: Path | None
    model_config: Path | None
    dump_dir: Path | None
    preset: str | None
    runtime_mode: Literal["probe", "full", "store"] | None
    threads: int | None
    backend: str | None
    out_dir: Path | None
    from_dir: Path | None
    origins: Mapping[str, str] = field(default_factory=dict)
    case_budgets: Mapping[str, float | None] = field(default_factory=dict)
    """The CASE_BUDGETS found in the environment: name → us, None = off."""

    def limits_for(self, case_id: str, pack: str, pack_budgets: Mapping[str, float | None]) -> Limits:
        """The limits of one case; a pack's budget counts where neither command line, environment nor ini says anything."""
        values = {name: getattr(self, name) for name in LIMIT_NAMES}
        origins = {name: self.origins[name] for name in LIMIT_NAMES}
        for name, budget in pack_budgets.items():
            if name not in values:
                raise ConfigError(f"pack {pack}: {case_id}: {name}: unknown budget, {nearest(name, LIMIT_NAMES)}")
            if origins[name] == "default":
                values[name], origins[name] = budget, f"pack {pack}"
        if not origins["max_decomp_us"].startswith("command line"):
            for known in CASE_BUDGETS:
                if known.env in self.case_budgets and re.fullmatch(known.cases, case_id):
                    values["max_decomp_us"], origins["max_decomp_us"] = self.case_budgets[known.env], f"environment {known.env}"
        return Limits(**values, origins=origins)

    def as_table(self) -> tuple[tuple[str, str, str], ...]:
        """(flag, value, origin) of every option, in the order of declaration."""
        rows = [(option.flag, _shown(option, getattr(self, option.name)), self.origins[option.name]) for option in OPTIONS]
        rows += [(name, _shown(None, value), f"environment {name}") for name, value in self.case_budgets.items()]
        return tuple(rows)


def _shown(option: Option | None, value: object) -> str:
    if value is not None:
        return f"{value:g}" if isinstance(value, float) else str(value)
    if option is None or option.name in LIMIT_NAMES:
        return "auto" if option is not None and option.name == "decode_baseline_tps" else "off"
    return "not set"


def _from_environment(option: Option, env: Mapping[str, str]) -> tuple[str, str] | None:
    """(name, text) of the one environment variable that is set; an empty one counts as not set."""
    found = [(name, env[name]) for name in option.env if env.get(name)]
    if len({text for _, text in found}) > 1:
        both = " and ".join(f"{name}={text}" for name, text in found)
        raise ConfigError(f"environment: {option.flag}: {both} contradict each other; unset one")
    return found[0] if found else None


def resolve(
    command_line: Mapping[str, str | None], env: Mapping[str, str], ini: Mapping[str, str | None], cwd: Path, ini_dir: Path
) -> Settings:
    """Settings from what was typed (by field), the environment and the ini file (by ini key).

    Relative paths start from ``cwd``, those of the ini file from ``ini_dir``. Raises ConfigError for a value that cannot be
    used and for options that contradict each other.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        typed, exported, written = command_line.get(option.name), _from_environment(option, env), ini.get(option.ini)
        if typed is not None:
            values[option.name], origins[option.name] = option.parse(typed, option.flag, cwd), f"command line {option.flag}"
        elif exported is not None:
            origins[option.name] = f"environment {exported[0]}"
            values[option.name] = option.parse(exported[1], origins[option.name], cwd)
        elif written:
            origins[option.name] = f"ini {option.ini}"
            values[option.name] = option.parse(written, origins[option.name], ini_dir)
        else:
            values[option.name], origins[option.name] = option.default, "default"
    budget = parse_limit("us")
    case_budgets = {known.env: budget(env[known.env], f"environment {known.env}", cwd) for known in CASE_BUDGETS if env.get(known.env)}
    settings = Settings(**values, origins=origins, case_budgets=case_budgets)
    _refuse_contradictions(settings)
    return settings


def _refuse_contradictions(settings: Settings) -> None:
    def both(first: str, second: str, why: str) -> None:
        if getattr(settings, first) is not None and getattr(settings, second) is not None:
            raise ConfigError(f"{settings.origins[first]} and {settings.origins[second]} contradict each other: {why}; drop one")

    for engine_option in ("llm_bench", "model_config", "preset", "runtime_mode", "threads", "backend"):
        both("from_dir", engine_option, "kept artifacts are gated without starting an engine")
    if settings.from_dir is not None and settings.dump_dir is not None and (settings.from_dir / "offline.json").exists():
        both("from_dir", "dump_dir", f"{settings.from_dir} keeps its own offline result")
    if settings.llm_bench is not None and settings.model_config is None:
        raise ConfigError(f"{settings.origins['llm_bench']}: needs the engine's model; add --model-config PATH")
    if settings.from_dir is not None and settings.from_dir == settings.out_dir:
        both("from_dir", "out_dir", "a finished run is never overwritten")
