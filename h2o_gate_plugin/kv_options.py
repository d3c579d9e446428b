"""Every ``kv_`` key of the bench config as data: type, legal range or words, engine default, suite default.

Source: the llm_bench contract ("config.json", KV side). The bench config reader, the preset loader and the bench command
line are all driven by this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from h2o_gate_plugin.errors import ConfigError, nearest

ValueType = Literal["bool", "int", "float", "word", "words"]
KvValue = bool | int | float | str
KvDtype = Literal["fp16", "bf16"]
LARGEST_NUMBER = 2**31 - 1
"""What an engine's int holds; of a float too, which no key needs as large. Neither NaN nor an infinity is within it."""

CODECS = ("none", "gear_delta")
GEAR_CODEC = "fp16_gear_predictive_v3"
"""The contract's: predictors, then zstd."""
RUNTIME_CODECS = (GEAR_CODEC, "kv_fast")
K_PREDICTORS = ("raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq")
V_PREDICTORS = ("raw", "delta_seq", "xor_seq")
SCOPES = ("none", "front_n", "h2o_kept", "front_n_and_h2o_kept")
SCOPE_ALIASES = {"front_n+h2o_kept": "front_n_and_h2o_kept"}
SCORES = ("mean", "mean_square")
RUNTIME_MODES = ("probe", "full", "store")


@dataclass(frozen=True)
class KvOption:
    """``words`` are the legal values of a word, or the legal items of a comma list (type ``words``)."""

    key: str
    type: ValueType
    engine_default: KvValue
    suite_default: KvValue
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    store_default: KvValue | None = None
    """What the suite sets instead of ``suite_default`` when the runtime mode is store; None: the same."""

    @property
    def allowed(self) -> str:
        """What a legal value looks like, for error lines."""
        if self.type == "bool":
            return "true or false"
        if self.type == "word":
            return "one of " + ", ".join(self.words)
        if self.type == "words":
            return "a comma list of " + ", ".join(self.words)
        kind = "an integer" if self.type == "int" else "a number"
        low = "" if self.low is None else f" >= {self.low:g}"
        high = "" if self.high is None else f" <= {self.high:g}"
        return f"{kind}{low}{' and' if low and high else ''}{high}"

    def check(self, value: Any, place: str) -> KvValue:
        """Return the value in its own type, aliases resolved.

        Raises ConfigError (one line, naming place, key, value and what is allowed) for a wrong type, an unknown word or a
        number out of range. Types are strict: ``32.0`` is no int and ``1`` is no bool; an int is a legal float.
        """
        problem = f"{place}: {self.key}: expected {self.allowed}, got {value!r}"
        if self.type == "bool":
            if isinstance(value, bool):
                return value
            raise ConfigError(problem)
        if self.type in ("word", "words"):
            if not isinstance(value, str):
                raise ConfigError(problem)
            return self._check_words(value, problem)
        if isinstance(value, bool) or not isinstance(value, int if self.type == "int" else int | float):
            raise ConfigError(problem)
        if (
            not (-LARGEST_NUMBER <= value <= LARGEST_NUMBER)
            or not (self.low is None or value >= self.low)
            or not (self.high is None or value <= self.high)
        ):
            raise ConfigError(problem)
        return float(value) if self.type == "float" else int(value)

    def _check_words(self, value: str, problem: str) -> str:
        if self.type == "word":
            value = SCOPE_ALIASES.get(value, value) if self.words is SCOPES else value
            if value not in self.words:
                raise ConfigError(f"{problem}; {nearest(value, self.words)}")
            return value
        items = [item.strip() for item in value.split(",")]
        for item in items:
            if item not in self.words:
                raise ConfigError(f"{problem}; {nearest(item, self.words)}")
        return ",".join(items)


_ALL = (
    KvOption("kv_h2o_enable", "bool", False, True),
    KvOption("kv_h2o_layer_start", "int", 2, 2, low=0),
    KvOption("kv_h2o_layer_end", "int", -1, -1, low=-1),
    KvOption("kv_h2o_block_tokens", "int", 64, 32, low=1),
    KvOption("kv_h2o_sink_tokens", "int", 32, 16, low=0),
    KvOption("kv_h2o_recent_tokens", "int", 256, 96, low=1),
    KvOption("kv_h2o_target_mode", "word", "adaptive", "adaptive", words=("static", "adaptive")),
    KvOption("kv_h2o_target_keep_ratio", "float", 0.5, 0.30, low=0.001, high=1.0),
    KvOption("kv_h2o_target_lossy_ratio", "float", 3.0, 3.2, low=1.0),
    KvOption("kv_h2o_ema_alpha", "float", 0.9, 0.9, low=0.0, high=1.0),
    KvOption("kv_h2o_update_interval", "int", 16, 16, low=1),
    KvOption("kv_h2o_trigger_min_tokens", "int", 512, 384, low=1),
    KvOption("kv_h2o_score", "word", "mean", "mean", words=SCORES),
    KvOption("kv_h2o_score_near_tokens", "int", 0, 0, low=0),
    KvOption("kv_h2o_log_stats", "bool", False, True),
    KvOption("kv_lossless_enable", "bool", False, True),
    KvOption("kv_lossless_runtime_enable", "bool", False, True),
    KvOption("kv_lossless_scope", "word", "front_n", "front_n_and_h2o_kept", words=SCOPES),
    KvOption("kv_lossless_front_n", "int", 2, 2, low=0),
    KvOption("kv_lossless_codec", "word", "none", "gear_delta", words=CODECS),
    KvOption("kv_lossless_runtime_mode", "word", "probe", "full", words=RUNTIME_MODES),
    KvOption("kv_lossless_block_tokens", "int", 128, 128, low=1),
    KvOption("kv_lossless_hot_recent_tokens", "int", 256, 96, low=0),
    KvOption("kv_lossless_hot_sink_tokens", "int", 16, 16, low=0),
    KvOption("kv_lossless_kept_sample_layers", "int", 1, 1, low=0),
    KvOption("kv_lossless_kept_sample_token_interval", "int", 1, 2, low=0),
    KvOption("kv_lossless_front_sample_token_interval", "int", 1, 1, low=0, store_default=2),
    KvOption("kv_lossless_store_disable_front", "bool", False, False, store_default=True),
    KvOption("kv_lossless_store_bootstrap_tokens", "int", 32, 128, low=1, store_default=32),
    KvOption("kv_lossless_store_grouped_step_tokens", "int", 256, 128, low=1, store_default=256),
    KvOption("kv_lossless_codec_runtime", "word", GEAR_CODEC, GEAR_CODEC, words=RUNTIME_CODECS),
    KvOption("kv_lossless_predictors_k", "words", ",".join(K_PREDICTORS[:4]), ",".join(K_PREDICTORS[:4]), words=K_PREDICTORS),
    KvOption("kv_lossless_predictors_v", "words", ",".join(V_PREDICTORS), ",".join(V_PREDICTORS), words=V_PREDICTORS),
    KvOption("kv_lossless_async_threads", "int", 1, 1, low=0),
    KvOption("kv_lossless_max_queue", "int", 256, 256, low=1),
    KvOption("kv_lossless_decode_cache_blocks", "int", 64, 64, low=0),
    KvOption("kv_lossless_strict_roundtrip_check", "bool", False, False),
)  # fmt: skip

KV_OPTIONS: Mapping[str, KvOption] = {option.key: option for option in _ALL}
"""The suite's ``hot_recent_tokens`` equals H2O's recent window: with v5's 256 nothing kept would ever be cold at prompt 512."""


def check_kv_values(values: Mapping[str, Any], place: str) -> dict[str, KvValue]:
    """Check every ``kv_`` key of ``values``; raises ConfigError for an unknown key, naming the nearest legal one."""
    checked: dict[str, KvValue] = {}
    for key, value in values.items():
        if key not in KV_OPTIONS:
            raise ConfigError(f"{place}: {key}: unknown key, {nearest(key, tuple(KV_OPTIONS))}")
        checked[key] = KV_OPTIONS[key].check(value, place)
    return checked


def engine_values(values: Mapping[str, Any], place: str) -> dict[str, KvValue]:
    """All keys: the checked ``values`` over the engine defaults."""
    return {key: option.engine_default for key, option in KV_OPTIONS.items()} | check_kv_values(values, place)


def suite_values(values: Mapping[str, Any], place: str) -> dict[str, KvValue]:
    """All keys: the checked ``values`` over the suite defaults, with store mode's own defaults where the mode is store."""
    checked = check_kv_values(values, place)
    mode = checked.get("kv_lossless_runtime_mode", KV_OPTIONS["kv_lossless_runtime_mode"].suite_default)
    defaults = {
        key: option.store_default if mode == "store" and option.store_default is not None else option.suite_default
        for key, option in KV_OPTIONS.items()
    }
    return defaults | checked
