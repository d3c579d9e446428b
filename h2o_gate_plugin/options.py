"""Every option of the group ``h2o-gate``, declared once: flag, ini key, environment names, default.

Order: command line > environment > ini > pack or preset > default; each value keeps where it came from.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from h2o_gate_plugin.bench.engine import EMBEDDED_ENGINE
from h2o_gate_plugin.bench.measurement import OFFLINE_FILE
from h2o_gate_plugin.bench.pack import BUDGETS, PACKS
from h2o_gate_plugin.bench.preset import BACKENDS
from h2o_gate_plugin.bench.prompt_command import parse_prompt_command
from h2o_gate_plugin.declared import whole_number
from h2o_gate_plugin.errors import ConfigError, nearest
from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.limits import AGGREGATES, DECODE_AGGREGATES, Aggregate, DecodeAggregate, Limits
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.history.database import DEFAULT_HISTORY
from h2o_gate_plugin.kv_options import RUNTIME_MODES

GROUP = "h2o-gate"
DEFAULT_TIMEOUT_S = 900.0
DEFAULT_PAIRS = 4
DEFAULT_MAX_PAIRS = 20
DEFAULT_TIME_BUDGET_S = 300.0
ROLLING = "rolling"
DEFAULT_PROMPTS_PER_BUCKET = 2
AUTO = "auto"
JOINT_FACTOR = 1.1
"""Store mode's limit of resident_pass over the lossy limit: below it the store gives back next to nothing beyond eviction."""

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


def parse_baseline_choice(text: str, place: str, folder: Path) -> float | Path | str | None:
    """None for auto, tok/s, ROLLING, or the folder of a kept run."""
    path = _path(text, place, folder)
    if text == ROLLING or (text != AUTO and path.exists()):
        return ROLLING if text == ROLLING else path
    try:
        return parse_baseline(text, place, folder)
    except ConfigError as err:
        expected = "auto (measured in the same batch), a number > 0 (tok/s), rolling, or a kept run"
        raise ConfigError(f"{place}: expected {expected}, got {text!r}") from err


def parse_auto_limit(unit: str) -> Parse:
    limit = parse_limit(unit)

    def parse(text: str, place: str, folder: Path) -> float | str | None:
        if text == AUTO:
            return AUTO
        try:
            value: float | None = limit(text, place, folder)
        except ConfigError as err:
            raise ConfigError(f"{err}; auto follows --min-lossy") from err
        return value

    return parse


def parse_gates(text: str, place: str, folder: Path) -> frozenset[str] | None:
    """None for auto."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words in (["auto"], ["all"], ["none"]):
        return {"auto": None, "all": frozenset(GATE_NAMES), "none": frozenset()}[words[0]]
    for word in words or [text]:
        if word not in GATE_NAMES:
            raise ConfigError(f"{place}: expected auto, all, none or names of gates, got {word!r}; {nearest(word, GATE_NAMES)}")
    return frozenset(words)


def _count(text: str, place: str, folder: Path) -> int:
    count = whole_number(text)
    if not count:
        raise ConfigError(f"{place}: expected a whole number >= 1, got {text!r:.80}")
    return count


def _whole(text: str, place: str, folder: Path) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigError(f"{place}: expected a whole number >= 0, got {text!r}")
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
    try:
        path = (folder / Path(text).expanduser()).absolute()
        os.stat(path)
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as err:  # a name too long, the home of nobody, a NUL
        raise ConfigError(f"{place}: expected a path, got {text!r:.200}: {err!s:.200}") from err
    return path


def _existing(text: str, place: str, folder: Path) -> Path:
    path = _path(text, place, folder)
    if not path.exists():
        raise ConfigError(f"{place}: expected an existing path, got {text!r}; there is no {path}")
    return path


def _pack_files(text: str, place: str, folder: Path) -> tuple[Path, ...]:
    """Their names become markers, so that they must be words that no marker of the suite has taken."""
    taken = (*PACKS, *(gate.marker for gate in GATES.values()), "overall")
    paths = tuple(_existing(word.strip(), place, folder) for word in text.split(",") if word.strip())
    for path in paths:
        if not path.stem.isidentifier() or path.stem in taken:
            raise ConfigError(f"{place}: {path}: expected a file whose name makes a free marker, got {path.stem!r}; rename it")
    if not paths or len({path.stem for path in paths}) < len(paths):
        raise ConfigError(f"{place}: expected pack files of different names, got {text!r}; correct it")
    return paths


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
    Option("min_resident", "--min-resident", "RATIO|auto", parse_auto_limit("ratio"), AUTO,
           "limit of resident_pass: KV bytes of the H2O layers without compression / those alive (auto, the default: --min-lossy)"),
    Option("min_joint_resident", "--min-joint-resident", "RATIO|auto", parse_auto_limit("ratio"), AUTO,
           f"the same in store mode, where the lossless store must save too (auto, the default: {JOINT_FACTOR:g} x --min-lossy)"),
    Option("min_coverage", "--min-coverage", "SHARE", parse_limit("share"), 0.95,
           "limit of coverage_pass, where the configuration claims full coverage (default 0.95)"),
    Option("max_scope_violations", "--max-scope-violations", "LAYERS", parse_limit("layers"), 0.0,
           "limit of scope_pass: layers not treated as configured (default 0)"),
    Option("max_mismatches", "--max-mismatches", "BLOCKS", parse_limit("blocks"), 0.0,
           "limit of kv_exact_pass: decoded blocks, and rows over two turns, that are not exact (default 0)"),
    Option("max_repeat_spread", "--max-repeat-spread", "SHARE", parse_limit("share"), 0.0,
           "limit of repeats_pass: relative spread of the ratios over repeats (default 0)"),
    Option("max_kl", "--max-kl", "NATS", parse_limit("nats"), 0.4,
           "quality_pass: divergence from the full cache on plain text (default 0.4)"),
    Option("max_masked_kl", "--max-masked-kl", "NATS", parse_limit("nats"), 1e-4,
           "quality_pass: divergence from a full cache that attends to the kept tokens alone (default 0.0001)"),
    Option("min_top1", "--min-top1", "SHARE", parse_limit("share"), 0.75,
           "quality_pass: share of tokens with the full cache's first choice (default 0.75)"),
    Option("max_nll_ratio", "--max-nll-ratio", "RATIO", parse_limit("ratio"), 1.25,
           "quality_pass: nll of the text / nll with the full cache (default 1.25)"),
    Option("min_recall", "--min-recall", "SHARE", parse_limit("share"), 0.6,
           "quality_pass: recall of heavy pairs / the full cache's (default 0.6)"),
    Option("min_recall_lead", "--min-recall-lead", "SHARE", parse_limit("share"), 0.25,
           "quality_pass: recall of heavy pairs - the better control's (default 0.25)"),
    Option("max_missing_tokens", "--max-missing-tokens", "TOKENS", parse_limit("tokens"), 0.0,
           "limit of tokens_pass: nominal tokens that were not decoded (default 0)"),
    Option("max_constant_prompts", "--max-constant-prompts", "ROWS", parse_limit("rows"), 0.0,
           "limit of prompt_pass: rows whose prompt is no real text (default 0)"),
    Option("max_async_wait_us", "--max-async-wait-us", "US", parse_limit("us"), 50_000.0,
           "limit of async_wait_pass: time a run waits for the encode workers (default 50000)"),
    Option("max_backpressure", "--max-backpressure", "BLOCKS", parse_limit("blocks"), 0.0,
           "limit of backpressure_pass: groups that a full queue refused (default 0)"),
    Option("min_decode_cache_reads", "--min-decode-cache-reads", "READS", parse_limit("reads"), 1.0,
           "limit of decode_cache_pass: misses (blocks decoded), and hits where there is a cache (default 1)"),
    Option("max_log_errors", "--max-log-errors", "LINES", parse_limit("lines"), 0.0,
           "limit of log_pass: output lines that tell of broken KV (default 0)"),
    Option("require_evidence", "--require-evidence", "auto|all|none|GATES", parse_gates, None,
           "gates that fail without evidence instead of being unproven: all, none, a comma list, or auto (default): "
           "all with the embedded engine, none with another"),
    Option("decode_baseline", "--decode-baseline", "auto|TPS|PATH|rolling", parse_baseline_choice, None,
           "baseline of decode_pass: auto (default) measures it in the same batch; a number (tok/s) or the folder of a kept run fixes it; "
           "rolling takes the median of the latest runs of the history"),
    Option("decode_baseline_force", "--decode-baseline-force", "yes|no", _word("yes", "no"), "no",
           "yes: take a fixed baseline from another host, or from a host that is not known (default no)"),
    Option("history_dir", "--h2o-history", "DIR", _path, None,
           f"folder of history.sqlite, where every run is kept and where --decode-baseline=rolling looks (default {DEFAULT_HISTORY})"),
    Option("aggregate", "--aggregate", "|".join(AGGREGATES), _word(*AGGREGATES), "worst-row",
           "row that decides lossy_pass: the worst of the best configuration (default), or the best of all"),
    Option("decode_pairs", "--decode-pairs", "N", _count, DEFAULT_PAIRS,
           f"interleaved baseline and candidate processes per run, to the first look (default {DEFAULT_PAIRS}); more while undecided"),
    Option("decode_max_pairs", "--decode-max-pairs", "N", _count, DEFAULT_MAX_PAIRS,
           f"pairs per run to the last look (default {DEFAULT_MAX_PAIRS}, or --decode-pairs when that is more)"),
    Option("decode_time_budget_s", "--decode-time-budget", "S", _seconds, DEFAULT_TIME_BUDGET_S,
           f"seconds of measuring after which a run starts no further pair (default {DEFAULT_TIME_BUDGET_S:g})"),
    Option("decode_inconclusive", "--decode-inconclusive", "fail|pass", _word("fail", "pass"), "fail",
           "what decode_pass makes of a drop that the pairs cannot tell from the limit (default fail)"),
    Option("decode_aggregate", "--decode-aggregate", "|".join(DECODE_AGGREGATES), _word(*DECODE_AGGREGATES), "paired",
           "rule of decode_pass: paired (default) tests the pairs; the others compare a figure over their drops without a test"),
    Option("case_timeout_s", "--case-timeout", "S", _seconds, DEFAULT_TIMEOUT_S,
           f"seconds after which one llm_bench process is stopped, and its run not tried further (default {DEFAULT_TIMEOUT_S:g})"),
    Option("llm_bench", "--llm-bench", "PATH", _path, None, "llm_bench executable (default: the embedded engine)"),
    Option("model_config", "--model-config", "PATH", _path, None, "config.json of the model (default: the reference model)"),
    Option("dump_dir", "--dump-dir", "DIR", _existing, None,
           "KV dump for the offline evaluator (default: the engine makes one)"),
    Option("packs", "--packs", "FILE[,FILE…]", _pack_files, (),
           "pack files of your own; each one's name is its marker: -m NAME runs it (docs/own-cases.md)"),
    Option("preset", "--preset", "NAME|PATH", _text, None, "preset that the pack `runtime` runs instead of its own"),
    Option("runtime_mode", "--runtime-mode", "|".join(RUNTIME_MODES), _word(*RUNTIME_MODES), None,
           "lossless runtime mode that the pack `runtime` runs instead of its own", ("KV_LOSSLESS_RUNTIME_MODE",)),
    Option("prompts", "--prompts", "DIR|MANIFEST", _existing, None,
           "prompt set of the pack `prompts`: a folder of prompt_<bucket>_<i>.txt, or a manifest (default: the set that ships)"),
    Option("prompts_per_bucket", "--prompts-per-bucket", "N", _count, DEFAULT_PROMPTS_PER_BUCKET,
           f"prompts that are drawn of every bucket of the set (default {DEFAULT_PROMPTS_PER_BUCKET})"),
    Option("prompts_seed", "--prompts-seed", "S", _whole, 0, "seed of that draw (default 0)"),
    Option("prompt_command", "--prompt-command", "TEMPLATE", parse_prompt_command, None,
           "how an external engine is run on a prompt file: argv words with {config} {prompt_file} {prompt} {gen} {log} and, where wanted, "
           "{llm_bench} {repeat} {threads} {backend} {attention_option}"),
    Option("threads", "--threads", "N", _count, None, "threads of the engine (default: the preset's)"),
    Option("backend", "--backend", "|".join(BACKENDS), _word(*BACKENDS), None, "backend of the engine (default: the preset's)"),
    Option("out_dir", "--h2o-out", "DIR", _path, None, "folder for artifacts and reports (default h2o-out/<UTC time>-<pack>)"),
    Option("from_dir", "--h2o-from", "DIR", _existing, None,
           "gate kept artifacts, llm_bench logs or an h2o_metrics.csv again; starts no engine"),
    Option("github", "--h2o-github", "auto|on|off", _word("auto", "on", "off"), "auto",
           "step summary and annotations of GitHub Actions: auto (default) where the environment says GITHUB_ACTIONS=true"),
)  # fmt: skip

GROUPS: Mapping[str, str] = {
    GROUP: f"{GROUP}: acceptance gates for KV-cache compression: what runs, on what, into which folder",
    f"{GROUP} limits": f"{GROUP} limits: what each gate asks for; -1 or off switches a limit off",
    f"{GROUP} decode": f"{GROUP} decode gate: its baseline, pairs and rule",
}
"""Group of `pytest --help` → heading."""


def group_of(option: Option) -> str:
    if option.name in (*BUDGETS, "aggregate", "require_evidence"):
        return f"{GROUP} limits"
    return f"{GROUP} decode" if option.name.startswith(("decode_", "history_")) else GROUP


LIMIT_NAMES = (
    *BUDGETS, "aggregate", "require_evidence",
    "decode_pairs", "decode_max_pairs", "decode_time_budget_s", "decode_inconclusive", "decode_aggregate",
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
    min_resident: float | str | None
    min_joint_resident: float | str | None
    min_coverage: float | None
    max_scope_violations: float | None
    max_mismatches: float | None
    max_repeat_spread: float | None
    max_kl: float | None
    max_masked_kl: float | None
    min_top1: float | None
    max_nll_ratio: float | None
    min_recall: float | None
    min_recall_lead: float | None
    max_missing_tokens: float | None
    max_constant_prompts: float | None
    max_async_wait_us: float | None
    max_backpressure: float | None
    min_decode_cache_reads: float | None
    max_log_errors: float | None
    require_evidence: frozenset[str] | None
    """None: all with the embedded engine, none with another."""
    decode_baseline: float | Path | str | None
    """None: auto; tok/s; the folder of a kept run; ROLLING."""
    decode_baseline_force: Literal["yes", "no"]
    history_dir: Path | None
    aggregate: Aggregate
    decode_pairs: int
    decode_max_pairs: int
    decode_time_budget_s: float
    decode_inconclusive: Literal["fail", "pass"]
    decode_aggregate: DecodeAggregate
    case_timeout_s: float
    llm_bench: Path | None
    model_config: Path | None
    dump_dir: Path | None
    packs: tuple[Path, ...]
    preset: str | None
    runtime_mode: Literal["probe", "full", "store"] | None
    prompts: Path | None
    prompts_per_bucket: int
    prompts_seed: int
    prompt_command: tuple[str, ...] | None
    threads: int | None
    backend: str | None
    out_dir: Path | None
    from_dir: Path | None
    github: Literal["auto", "on", "off"]
    origins: Mapping[str, str] = field(default_factory=dict)
    case_budgets: Mapping[str, float | None] = field(default_factory=dict)
    """The CASE_BUDGETS found in the environment: name → us, None = off."""

    def limits_for(self, case_id: str, pack: str, pack_budgets: Mapping[str, float | None], engine: str | None = None) -> Limits:
        """The limits of one case; a pack's budget counts where neither command line, environment nor ini says anything.

        ``engine``: the name of the one that was or will be measured; ours must print all evidence unless told otherwise.
        """
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
        for name, factor in (("min_resident", 1.0), ("min_joint_resident", JOINT_FACTOR)):
            if values[name] == AUTO:
                lossy = values["min_lossy"]
                values[name] = None if lossy is None else lossy * factor
                origins[name] = f"{'' if factor == 1.0 else f'{factor:g} x '}--min-lossy, {origins['min_lossy']}"
        if values["require_evidence"] is None:
            values["require_evidence"] = frozenset(GATE_NAMES if engine == EMBEDDED_ENGINE else ())
        return Limits(**values, origins=origins)

    @property
    def pack_names(self) -> tuple[str, ...]:
        """Of the packs that ship, and of --packs."""
        return (*PACKS, *(path.stem for path in self.packs))

    def as_table(self) -> tuple[tuple[str, str, str], ...]:
        """(flag, value, origin) of every option, in the order of declaration."""
        rows = [(option.flag, _shown(option, getattr(self, option.name)), self.origins[option.name]) for option in OPTIONS]
        rows += [(name, _shown(None, value), f"environment {name}") for name, value in self.case_budgets.items()]
        return tuple(rows)


def _shown(option: Option | None, value: object) -> str:
    if isinstance(value, tuple):
        return shlex.join(map(str, value)) or "not set"
    if isinstance(value, frozenset):
        return "all" if len(value) == len(GATE_NAMES) else ",".join(sorted(value)) or "none"
    if value is not None:
        return f"{value:g}" if isinstance(value, float) else str(value)
    if option is not None and option.name == "decode_baseline":
        return AUTO
    if option is None or option.name in LIMIT_NAMES:
        return "auto" if option is not None and option.name == "require_evidence" else "off"
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

    for engine_option in ("llm_bench", "model_config", "prompt_command"):
        both("from_dir", engine_option, "kept artifacts are gated without starting an engine")
    if settings.from_dir is not None and settings.dump_dir is not None and (settings.from_dir / OFFLINE_FILE).exists():
        both("from_dir", "dump_dir", f"{settings.from_dir} keeps its own offline result")
    if settings.llm_bench is not None and settings.model_config is None:
        raise ConfigError(f"{settings.origins['llm_bench']}: needs the engine's model; add --model-config PATH")
    if settings.prompt_command is not None and settings.llm_bench is None:
        raise ConfigError(f"{settings.origins['prompt_command']}: the embedded engine needs none; drop it, or add --llm-bench PATH")
    if settings.from_dir is not None and settings.from_dir == settings.out_dir:
        both("from_dir", "out_dir", "a finished run is never overwritten")
