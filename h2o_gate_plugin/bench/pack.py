"""Packs: which cases a gate run measures, how often, with which values and budgets.

The shape of the file::

    description: one line
    cases:
      - case: joint_full            # the name in ids and reports
        preset: target_core_gate_v5 # name, or a path relative to the pack's file
        runs: 3
        set: {kv_lossless_runtime_mode: full}
        budgets: {max_decomp_us: 30000}
      - case: b128
        preset: target_prompts_v6
        bucket: 128                 # tokens: its runs are the sampled prompt files of this bucket
      - pack: m3                    # every case of another pack, ids "final/m3/joint_full-1"
        budgets: {max_decomp_us: 70000}
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from h2o_gate_plugin.bench.document import Node, load_document
from h2o_gate_plugin.bench.preset import Preset, PromptFile, find_file, load_preset, presets_folder
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvValue

BUDGETS = (
    "min_lossy", "min_online_lossless", "max_decode_drop", "max_decomp_us", "max_queue_peak", "max_fallback",
    "min_resident", "min_joint_resident", "min_coverage", "max_scope_violations", "max_mismatches", "max_repeat_spread",
    "max_kl", "max_masked_kl", "min_top1", "max_nll_ratio", "min_recall", "min_recall_lead", "max_missing_tokens", "max_constant_prompts",
    "max_async_wait_us", "max_backpressure", "min_decode_cache_reads", "max_log_errors",
)  # fmt: skip
"""Limits that a pack may state; each is a number >= 0, or null for off. A limit not stated is left to the options."""

PACKS = ("runtime", "m3", "final", "prompts")
"""The packs that ship."""

LARGEST_BUDGET = 1e15
_CASE_KEYS = ("case", "preset", "runs", "bucket", "set", "budgets")
_INCLUDE_KEYS = ("pack", "budgets")


@dataclass(frozen=True)
class PackCase:
    """One case to measure. ``run`` counts from 1. ``overrides`` are single values over the preset's.

    ``budgets``: limit → number, or None where the pack switches it off. ``bucket`` in tokens: a case of real prompts, whose runs read
    ``prompt_files``, which are chosen once the prompt set is known; None: the engine's own text.
    """

    id: str
    pack: str
    case: str
    run: int
    preset: Preset
    overrides: Mapping[str, KvValue]
    budgets: Mapping[str, float | None]
    bucket: int | None = None
    prompt_files: tuple[PromptFile, ...] = ()


def packs_folder() -> Path:
    return presets_folder() / "packs"


def load_pack(name_or_path: str | Path) -> tuple[PackCase, ...]:
    """The cases of a pack in order, those of included packs in their place. Raises ConfigError with file, line and key."""
    return _load(find_file(name_or_path, packs_folder(), "pack"), ())


def _load(path: Path, including: tuple[Path, ...]) -> tuple[PackCase, ...]:
    path = path.resolve()
    if path in including:
        raise ConfigError(f"{path}: pack: expected packs that do not include themselves, got a circle; remove one include")
    fields = load_document(path).fields("pack", ("description", "cases"))
    entries = fields["cases"].items() if "cases" in fields else ()
    if not entries:
        raise ConfigError(f"{path}: cases: expected at least one case, got none; add one")
    cases = tuple(case for entry in entries for case in _entry(entry, path, including))
    ids = [case.id for case in cases]
    twice = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
    if twice:
        raise ConfigError(f"{path}: cases: expected each case name once, got {twice[0]!r} twice; rename one")
    return cases


def _entry(entry: Node, path: Path, including: tuple[Path, ...]) -> tuple[PackCase, ...]:
    pack = path.stem
    if isinstance(entry.value, dict) and "pack" in entry.value:
        fields = entry.fields("included pack", _INCLUDE_KEYS)
        budgets = _budgets(fields.get("budgets"))
        included = _load(_included(fields["pack"], path), (*including, path))
        return tuple(replace(case, id=f"{pack}/{case.id}", pack=pack, budgets={**case.budgets, **budgets}) for case in included)
    fields = entry.fields("case", _CASE_KEYS)
    for key in ("case", "preset"):
        if key not in fields:
            raise ConfigError(f"{entry.place}: {key}: expected a name, got nothing; add the key")
    name = fields["case"].text("case")
    preset = _preset(fields["preset"], path)
    runs = fields["runs"].integer("runs", 1) if "runs" in fields else 1
    chosen = fields["set"].fields("set", tuple(KV_OPTIONS)) if "set" in fields else {}
    overrides = {key: KV_OPTIONS[key].check(node.plain(), node.place) for key, node in chosen.items()}
    budgets = _budgets(fields.get("budgets"))
    bucket = fields["bucket"].integer("bucket", 1) if "bucket" in fields else None
    return tuple(PackCase(f"{pack}/{name}-{run}", pack, name, run, preset, overrides, budgets, bucket) for run in range(1, runs + 1))


def _included(node: Node, path: Path) -> Path:
    try:
        return find_file(node.text("pack"), path.parent, "pack")
    except ConfigError as err:
        raise ConfigError(f"{node.place}: pack: {err}") from err


def _preset(node: Node, path: Path) -> Preset:
    """A preset name, or a path relative to the pack's file."""
    name = node.text("preset")
    beside = path.parent / name
    try:
        return load_preset(beside if os.path.isfile(beside) else name)  # False for a name too long, where Path raises
    except ConfigError as err:
        raise ConfigError(f"{node.place}: preset: {err}") from err


def _budgets(node: Node | None) -> dict[str, float | None]:
    if node is None:
        return {}
    budgets: dict[str, float | None] = {}
    for key, item in node.fields("budgets", BUDGETS).items():
        value = item.plain()
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_BUDGET):
            raise ConfigError(f"{item.place}: {key}: expected a number >= 0, or null for off, got {value!r:.80}; correct it")
        budgets[key] = None if value is None else float(value)
    return budgets
