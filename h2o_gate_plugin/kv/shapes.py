"""What a KV cache is told: the shape of a model's KV, and the policy that the ``kv_`` keys describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KvDtype, KvValue, engine_values

RuntimeMode = Literal["probe", "full", "store"]
ScoreKind = Literal["mean", "mean_square"]
Selection = Literal["heavy", "random", "window"]


@dataclass(frozen=True)
class KvShape:
    """``n_kv_head`` heads of ``head_dim`` 16-bit channels in each of ``n_layer`` layers, K and V alike."""

    n_layer: int
    n_kv_head: int
    head_dim: int
    dtype: KvDtype = "fp16"

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token in one layer (bytes)."""
        return 2 * 2 * self.n_kv_head * self.head_dim


@dataclass(frozen=True)
class KvPolicy:
    """The ``kv_`` keys, typed. Layers are inclusive indices; ``layer_end`` -1 is the last one until `resolved`."""

    h2o_enable: bool
    layer_start: int
    layer_end: int
    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    target_mode: Literal["static", "adaptive"]
    target_keep_ratio: float
    target_lossy_ratio: float
    ema_alpha: float
    update_interval: int
    trigger_min_tokens: int
    score: ScoreKind
    score_near_tokens: int
    log_stats: bool
    lossless: bool
    """Enabled, runtime enabled, with a codec and a scope: all four, or nothing is encoded."""
    scope: str
    front_n: int
    mode: RuntimeMode
    group_tokens: int
    hot_recent_tokens: int
    hot_sink_tokens: int
    kept_sample_layers: int
    kept_sample_interval: int
    front_sample_interval: int
    store_disable_front: bool
    bootstrap_tokens: int
    codec: str
    k_predictors: tuple[str, ...]
    v_predictors: tuple[str, ...]
    async_threads: int
    max_queue: int
    decode_cache_blocks: int
    strict_roundtrip_check: bool
    selection: Selection = "heavy"
    """No ``kv_`` key. What a plan prefers outside the protected blocks; random and window are the controls of the quality evidence."""

    @staticmethod
    def from_values(values: Mapping[str, KvValue], place: str = "kv policy") -> KvPolicy:
        """The policy of ``kv_`` values; a key that is missing takes the engine's default.

        ``group_tokens`` is kv_lossless_block_tokens, or kv_lossless_store_grouped_step_tokens in store mode. Raises ConfigError.
        """
        v: dict[str, Any] = {key.removeprefix("kv_h2o_").removeprefix("kv_"): value for key, value in engine_values(values, place).items()}
        store = v["lossless_runtime_mode"] == "store"
        named = {"none": False, "gear_delta": True}[v["lossless_codec"]]
        return KvPolicy(
            h2o_enable=v["enable"],
            layer_start=v["layer_start"],
            layer_end=v["layer_end"],
            block_tokens=v["block_tokens"],
            sink_tokens=v["sink_tokens"],
            recent_tokens=v["recent_tokens"],
            target_mode=v["target_mode"],
            target_keep_ratio=v["target_keep_ratio"],
            target_lossy_ratio=v["target_lossy_ratio"],
            ema_alpha=v["ema_alpha"],
            update_interval=v["update_interval"],
            trigger_min_tokens=v["trigger_min_tokens"],
            score=v["score"],
            score_near_tokens=v["score_near_tokens"],
            log_stats=v["log_stats"],
            lossless=v["lossless_enable"] and v["lossless_runtime_enable"] and named and v["lossless_scope"] != "none",
            scope=v["lossless_scope"],
            front_n=v["lossless_front_n"],
            mode=v["lossless_runtime_mode"],
            group_tokens=v["lossless_store_grouped_step_tokens"] if store else v["lossless_block_tokens"],
            hot_recent_tokens=v["lossless_hot_recent_tokens"],
            hot_sink_tokens=v["lossless_hot_sink_tokens"],
            kept_sample_layers=v["lossless_kept_sample_layers"],
            kept_sample_interval=v["lossless_kept_sample_token_interval"],
            front_sample_interval=v["lossless_front_sample_token_interval"],
            store_disable_front=v["lossless_store_disable_front"],
            bootstrap_tokens=v["lossless_store_bootstrap_tokens"],
            codec=v["lossless_codec_runtime"],
            k_predictors=tuple(v["lossless_predictors_k"].split(",")),
            v_predictors=tuple(v["lossless_predictors_v"].split(",")),
            async_threads=v["lossless_async_threads"],
            max_queue=v["lossless_max_queue"],
            decode_cache_blocks=v["lossless_decode_cache_blocks"],
            strict_roundtrip_check=v["lossless_strict_roundtrip_check"],
        )

    @property
    def active(self) -> bool:
        """Whether anything is evicted or encoded."""
        return self.h2o_enable or self.lossless

    def resolved(self, n_layer: int, place: str = "kv policy") -> KvPolicy:
        """The same policy for a model of ``n_layer`` layers; raises ConfigError for layers that it does not have."""
        end = n_layer - 1 if self.layer_end == -1 else self.layer_end
        if self.h2o_enable and not self.layer_start <= end < n_layer:
            got = f"{self.layer_start} to {self.layer_end}"
            raise ConfigError(
                f"{place}: kv_h2o_layer_start and _end: expected layers of 0 to {n_layer - 1} in order, got {got}; name layers it has"
            )
        if self.lossless and self.scope != "h2o_kept" and self.front_n > n_layer:
            raise ConfigError(
                f"{place}: kv_lossless_front_n: expected at most {n_layer} (layers of the model), got {self.front_n}; lower it"
            )
        return replace(self, layer_end=end)

    def in_range(self, layer: int) -> bool:
        """Whether H2O evicts in this layer; the policy must be `resolved`."""
        return self.h2o_enable and self.layer_start <= layer <= self.layer_end

    def wanted_tokens(self, kv_tokens: int, seen_tokens: int) -> int:
        """Tokens that a plan aims to keep, before the protected floor: static ceil(ratio * kv), adaptive floor(seen / ratio).

        The ratios are taken as the decimal numbers that the config shows, so that 0.3 of 10 is 3.
        """
        ratio = self._target_ratio
        return -(-(ratio * kv_tokens) // 1) if self.target_mode == "static" else seen_tokens // ratio

    @cached_property
    def _target_ratio(self) -> Fraction:
        return Fraction(str(self.target_keep_ratio if self.target_mode == "static" else self.target_lossy_ratio))
