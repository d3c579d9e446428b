"""Presets: what loads, what it expands to, and what is refused with file, line and key."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.bench.preset import Preset, expand, load_preset, presets_folder
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv_options import KV_OPTIONS, KvValue, suite_values

TUNED = ("target_core_gate_v6", "target_full_coverage_v6", "target_store_memory_v6", "target_store_v6")
REAL_PROMPTS = ("target_prompts_v6",)
SEEDS = (
    "target_core_gate_v5",
    "target_joint_scope_v5",
    "target_joint_scope_v5_aggressive",
    "target_joint_scope_v5_full_coverage",
    "target_ratio_v5",
    "target_speed_v5",
    "target_store_v5",
)
NAMES = SEEDS + TUNED + REAL_PROMPTS


def preset_file(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_seven_presets_of_the_seed_and_the_tuned_ones_ship_and_no_other() -> None:
    assert tuple(sorted(path.stem for path in presets_folder().glob("*.yaml"))) == tuple(sorted(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_preset_runs_the_joint_scope_with_a_cold_kept_range(name: str) -> None:
    preset = load_preset(name)
    assert preset.description
    for config in expand(preset, {}):
        assert set(config.values) == set(KV_OPTIONS)
        assert config.values["kv_h2o_enable"] is True
        assert config.values["kv_lossless_scope"] == "front_n_and_h2o_kept"
        assert int(config.values["kv_lossless_hot_recent_tokens"]) <= int(config.values["kv_h2o_recent_tokens"])
        # what eviction leaves at the first plan must reach beyond the hot windows, or nothing kept is ever encoded
        kept = math.floor((config.prompt + 1) / 3.4)
        hot = int(config.values["kv_lossless_hot_recent_tokens"]) + int(config.values["kv_lossless_hot_sink_tokens"])
        assert kept > hot


def test_the_presets_values_are_the_seeds() -> None:
    def only(name: str) -> dict[str, KvValue]:
        (values,) = {tuple(sorted(config.values.items())) for config in expand(load_preset(name), {})}
        return dict(values)

    suite = suite_values({}, "test")
    assert only("target_core_gate_v5") == suite
    assert only("target_joint_scope_v5") == suite
    aggressive = only("target_joint_scope_v5_aggressive")
    assert {key for key in suite if aggressive[key] != suite[key]} == {
        "kv_lossless_kept_sample_layers",
        "kv_lossless_kept_sample_token_interval",
    }
    coverage = only("target_joint_scope_v5_full_coverage")
    assert (coverage["kv_lossless_kept_sample_layers"], coverage["kv_lossless_kept_sample_token_interval"]) == (0, 0)
    store = only("target_store_v5")
    assert store == suite_values({"kv_lossless_runtime_mode": "store"}, "test")
    assert [
        store[f"kv_lossless_{key}"]
        for key in ("front_sample_token_interval", "store_disable_front", "store_bootstrap_tokens", "store_grouped_step_tokens")
    ] == [2, True, 32, 256]


def test_the_tuned_presets_differ_from_the_seeds_in_eviction_and_in_what_they_pack() -> None:
    eviction = {
        "kv_h2o_score": "mean_square",
        "kv_h2o_score_near_tokens": 16,
        "kv_h2o_target_lossy_ratio": 3.3,
        "kv_h2o_block_tokens": 1,
        "kv_h2o_sink_tokens": 4,
        "kv_h2o_recent_tokens": 80,
        "kv_lossless_hot_sink_tokens": 4,
        "kv_lossless_hot_recent_tokens": 80,
    }
    for name in TUNED:
        for config in expand(load_preset(name), {}):
            suite = suite_values({"kv_lossless_runtime_mode": config.values["kv_lossless_runtime_mode"]}, "test")
            changed = {key: value for key, value in config.values.items() if value != suite[key]}
            packing = {key for key in changed if key not in eviction}
            assert {key: changed[key] for key in eviction if key != "kv_lossless_hot_recent_tokens"} == {
                key: value for key, value in eviction.items() if key != "kv_lossless_hot_recent_tokens"
            }
            assert all(key.startswith("kv_lossless_") for key in packing), name


def test_the_sweeps_cover_their_ranges() -> None:
    ratio, speed = load_preset("target_ratio_v5").values, load_preset("target_speed_v5").values
    assert (min(ratio["kv_h2o_target_keep_ratio"]), max(ratio["kv_h2o_target_keep_ratio"])) == (0.28, 0.33)
    assert ratio["kv_h2o_block_tokens"] == (8, 16, 32)
    assert ratio["kv_h2o_target_lossy_ratio"] == (3.0, 3.2, 3.4)
    assert (min(speed["kv_h2o_target_keep_ratio"]), max(speed["kv_h2o_target_keep_ratio"])) == (0.30, 0.36)
    assert speed["kv_h2o_block_tokens"] == (16, 32)
    assert len(expand(load_preset("target_ratio_v5"), {})) == 2 * 3 * 3 * 3 * 2
    assert len(expand(load_preset("target_speed_v5"), {})) == 3 * 2 * 2


def test_run_ids_count_and_name_the_run(tmp_path: Path) -> None:
    path = preset_file(tmp_path, "prompts: [512, 1024]\ngens: 128\nkv:\n  kv_h2o_target_lossy_ratio: [3, 3.2]\n")
    assert [config.run_id for config in expand(load_preset(path), {})] == [
        "run_0001_p512_g128_k0.3_b32_lr3",
        "run_0002_p1024_g128_k0.3_b32_lr3",
        "run_0003_p512_g128_k0.3_b32_lr3.2",
        "run_0004_p1024_g128_k0.3_b32_lr3.2",
    ]


_SWEEPS = st.fixed_dictionaries(
    {},
    optional={
        "kv_h2o_target_mode": st.sets(st.sampled_from(["static", "adaptive"]), min_size=1),
        "kv_h2o_block_tokens": st.sets(st.integers(1, 128), min_size=1, max_size=3),
        "kv_h2o_target_keep_ratio": st.sets(st.sampled_from([0.28, 0.3, 0.33]), min_size=1),
        "kv_lossless_runtime_mode": st.sets(st.sampled_from(["probe", "full", "store"]), min_size=1),
        "kv_h2o_enable": st.sets(st.booleans(), min_size=1),
    },
)
_LENGTHS = st.sets(st.integers(1, 4096), min_size=1, max_size=3)


@settings(max_examples=40)
@given(_SWEEPS, _LENGTHS, _LENGTHS)
def test_a_preset_expands_to_its_full_product_each_run_once(sweeps: dict[str, set[KvValue]], prompts: set[int], gens: set[int]) -> None:
    values = {key: tuple(items) for key, items in sweeps.items()}
    preset = Preset("x", None, "", tuple(prompts), tuple(gens), 1, None, None, 0, values)
    configs = expand(preset, {})
    assert len(configs) == math.prod(len(items) for items in values.values()) * len(prompts) * len(gens)
    assert len({config.run_id for config in configs}) == len(configs)
    chosen = {(config.prompt, config.gen, *(config.values[key] for key in values)) for config in configs}
    assert len(chosen) == len(configs)
    for config in configs:
        assert config.values == suite_values({key: config.values[key] for key in values}, "test")


def test_an_override_replaces_the_whole_sweep_and_brings_store_modes_defaults(tmp_path: Path) -> None:
    path = preset_file(tmp_path, "prompts: 16\ngens: 4\nkv: {kv_h2o_block_tokens: [8, 16], kv_lossless_runtime_mode: full}\n")
    (config,) = expand(load_preset(path), {"kv_h2o_block_tokens": 4, "kv_lossless_runtime_mode": "store"})
    assert config.values["kv_h2o_block_tokens"] == 4
    assert config.values["kv_lossless_store_bootstrap_tokens"] == 32
    assert config.values["kv_lossless_store_disable_front"] is True


def test_what_the_preset_says_beats_store_modes_defaults(tmp_path: Path) -> None:
    path = preset_file(tmp_path, "prompts: 16\ngens: 4\nkv: {kv_lossless_runtime_mode: store, kv_lossless_store_bootstrap_tokens: 16}\n")
    (config,) = expand(load_preset(path), {})
    assert config.values["kv_lossless_store_bootstrap_tokens"] == 16
    assert config.values["kv_lossless_store_grouped_step_tokens"] == 256


def test_an_override_that_is_not_legal_is_refused() -> None:
    with pytest.raises(ConfigError, match="kv_h2o_block_token: unknown key, did you mean 'kv_h2o_block_tokens'"):
        expand(load_preset("target_core_gate_v5"), {"kv_h2o_block_token": 8})


def test_a_json_preset_in_the_same_shape_loads_alike(tmp_path: Path) -> None:
    document = {
        "description": 'quoted \\ "text" / é',
        "prompts": [512],
        "gens": [128],
        "threads": 2,
        "kv": {"kv_h2o_target_keep_ratio": [0.28, 3e-1], "kv_lossless_predictors_k": "raw,delta_seq"},
    }
    as_json = load_preset(preset_file(tmp_path, json.dumps(document, indent="\t"), "mine.json"))
    assert as_json.values == {"kv_h2o_target_keep_ratio": (0.28, 0.3), "kv_lossless_predictors_k": ("raw,delta_seq",)}
    assert as_json.description == document["description"]
    assert (as_json.repeat, as_json.backend, as_json.threads) == (5, None, 2)


HEAD = "prompts: [16]\ngens: [4]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.yaml: file: expected a mapping"),
        ("- 1\n", r"mine\.yaml:1: preset: expected a mapping"),
        ("prompts: [1\n", r"mine\.yaml:\d: file: expected YAML, got"),
        ("gens: [4]\n", r"mine\.yaml: prompts: expected a list of token counts, got nothing"),
        ("prompts: []\ngens: [4]\n", r"mine\.yaml:1: prompts: expected at least one value to sweep, got \[\]"),
        ("prompts: [0]\ngens: [4]\n", r"mine\.yaml:1: prompts: expected an integer >= 1, got 0"),
        ("prompts: [16]\ngens: ['4']\n", r"mine\.yaml:2: gens: expected an integer >= 1, got '4'"),
        ("prompts: [16]\ngens: [true]\n", r"mine\.yaml:2: gens: expected an integer >= 1, got True"),
        ("prompts: [16, 16]\ngens: [4]\n", r"mine\.yaml:1: prompts: expected each value once"),
        (HEAD + "promts: [1]\n", r"mine\.yaml:3: promts: expected a known key of preset, got 'promts'; did you mean 'prompts'"),
        (HEAD + "gens: [5]\n", r"mine\.yaml:3: gens: expected each key once"),
        (HEAD + "backend: cuda\n", r"mine\.yaml:3: backend: expected one of cpu, opencl, metal, got 'cuda'"),
        (HEAD + "context_tokens: 1\n", r"mine\.yaml:3: context_tokens: expected an integer >= 2, got 1"),
        (HEAD + "threads: 0\n", r"mine\.yaml:3: threads: expected an integer >= 1"),
        (HEAD + "repeat: 1.5\n", r"mine\.yaml:3: repeat: expected an integer >= 1, got 1\.5"),
        (HEAD + "description: 3\n", r"mine\.yaml:3: description: expected text, got 3"),
        (HEAD + "kv: 3\n", r"mine\.yaml:3: kv: expected a mapping"),
        (HEAD + "kv:\n\n  kv_h2o_block_token: 8\n", r"mine\.yaml:5: kv_h2o_block_token: .*did you mean 'kv_h2o_block_tokens'"),
        (HEAD + "kv:\n  kv_h2o_block_tokens: []\n", r"mine\.yaml:4: kv_h2o_block_tokens: expected at least one value to sweep"),
        (
            HEAD + "kv:\n  kv_h2o_block_tokens:\n    - 8\n    - 8.0\n",
            r"mine\.yaml:6: kv_h2o_block_tokens: expected an integer >= 1, got 8\.0",
        ),
        (HEAD + "kv:\n  kv_h2o_block_tokens: [[8]]\n", r"mine\.yaml:4: kv_h2o_block_tokens: expected an integer >= 1, got \[8\]"),
        (HEAD + "kv:\n  kv_h2o_enable: 1\n", r"mine\.yaml:4: kv_h2o_enable: expected true or false, got 1"),
        (HEAD + "kv:\n  kv_h2o_target_lossy_ratio: .inf\n", r"mine\.yaml:4: kv_h2o_target_lossy_ratio: expected a number"),
        (HEAD + "kv:\n  kv_lossless_runtime_mode: sotre\n", r"mine\.yaml:4: kv_lossless_runtime_mode: .*did you mean 'store'"),
        (HEAD + "kv: !!python/name:os.system\n", r"mine\.yaml:3: value: expected a plain YAML scalar"),
        ("prompts: &a [*a]\ngens: [4]\n", r"mine\.yaml:\d: alias: expected plain values"),
        ("? [1]\n: 2\n", r"mine\.yaml:1: key: expected a word"),
        ("[" * 5000, r"mine\.yaml"),
    ],
)
def test_a_bad_preset_is_refused_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_preset(preset_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_bad_json_preset_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.json:2: file: expected JSON"):
        load_preset(preset_file(tmp_path, '{"prompts": [1],\n"gens": [1],}', "mine.json"))


def test_an_unknown_name_suggests_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match="got 'target_stor_v5'; did you mean 'target_store_v5'"):
        load_preset("target_stor_v5")
    with pytest.raises(ConfigError, match=r"absent/mine\.yaml: preset: expected a YAML or JSON file, got no such file"):
        load_preset("absent/mine.yaml")


def test_presets_are_found_inside_an_installed_package(tmp_path: Path) -> None:
    """A wheel ships them as h2o_gate_plugin/presets; a folder ``presets`` beside the package there is somebody else's."""
    package = presets_folder().parent / "h2o_gate_plugin"
    site = tmp_path / "site-packages"
    for name in (
        "__init__.py",
        "errors.py",
        "outside_file.py",
        "kv_options.py",
        "bench/__init__.py",
        "bench/preset.py",
        "bench/document.py",
    ):
        target = site / "h2o_gate_plugin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, target)
    (site / "presets").mkdir()
    code = "from h2o_gate_plugin.bench.preset import *; print(presets_folder())"

    def found() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=site, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False)

    assert "ConfigError" in found().stderr
    (site / "h2o_gate_plugin" / "presets").mkdir()
    assert found().stdout.strip() == str(site / "h2o_gate_plugin" / "presets")
