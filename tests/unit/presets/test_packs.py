"""Packs: the three that ship, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.bench.pack import BUDGETS, PACKS, load_pack, packs_folder
from h2o_gate_plugin.bench.preset import expand
from h2o_gate_plugin.bench.run_plan import plan_key
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.checks import GATES


def pack_file(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_packs_of_the_seed_and_the_real_prompts_ship() -> None:
    assert {path.stem for path in packs_folder().iterdir()} == {"final", "m3", "prompts", "runtime"} == set(PACKS)


def test_m3_is_joint_full_three_times_and_joint_store_once() -> None:
    cases = load_pack("m3")
    assert [case.id for case in cases] == ["m3/joint_full-1", "m3/joint_full-2", "m3/joint_full-3", "m3/joint_store-1"]
    assert [case.run for case in cases] == [1, 2, 3, 1]
    modes = [{config.values["kv_lossless_runtime_mode"] for config in expand(case.preset, case.overrides)} for case in cases]
    assert modes == [{"full"}, {"full"}, {"full"}, {"store"}]
    assert all(case.budgets == {} for case in cases)


def test_final_is_full_store_full_coverage_and_m3_with_their_budgets() -> None:
    cases = {case.id: case for case in load_pack("final")}
    assert {case_id: case.budgets["max_decomp_us"] for case_id, case in cases.items()} == {
        "final/full-1": 30_000,
        "final/store-1": 70_000,
        "final/full_coverage-1": 70_000,
        "final/m3/joint_full-1": 70_000,
        "final/m3/joint_full-2": 70_000,
        "final/m3/joint_full-3": 70_000,
        "final/m3/joint_store-1": 70_000,
    }
    store = expand(cases["final/store-1"].preset, cases["final/store-1"].overrides)[0].values
    assert (store["kv_lossless_store_bootstrap_tokens"], store["kv_lossless_store_grouped_step_tokens"]) == (32, 192)
    assert {case.pack for case in cases.values()} == {"final"}


def test_runtime_m3_and_final_share_their_first_full_case() -> None:
    first = [
        load_pack("runtime")[0],
        load_pack("m3")[0],
        *(case for case in load_pack("final") if case.id in ("final/full-1", "final/m3/joint_full-1")),
    ]
    assert len(first) == 4
    assert len({plan_key(case) for case in first}) == 1
    assert len({plan_key(case) for case in load_pack("final")}) == 6


def test_a_pack_beside_its_presets_finds_them_and_a_nearer_budget_gives_way_to_the_including_packs(tmp_path: Path) -> None:
    pack_file(tmp_path, "prompts: [16]\ngens: [4]\n", "near.yaml")
    pack_file(tmp_path, "cases: [{case: a, preset: near.yaml, budgets: {max_decomp_us: 5, min_lossy: 2}}]\n", "inner.yaml")
    path = pack_file(tmp_path, "cases: [{pack: inner, budgets: {max_decomp_us: null, max_queue_peak: 4.5}}]\n")
    (case,) = load_pack(path)
    assert (case.id, case.preset.name) == ("mine/inner/a-1", "near")
    assert case.budgets == {"max_decomp_us": None, "min_lossy": 2.0, "max_queue_peak": 4.5}


def test_budgets_are_the_limits_of_the_gates() -> None:
    assert set(BUDGETS) == {limit for gate in GATES.values() for limit in gate.limits}


def test_prompts_is_one_case_a_bucket_with_an_eviction_that_reaches_the_shortest() -> None:
    cases = load_pack("prompts")
    assert [(case.id, case.bucket) for case in cases] == [("prompts/b128-1", 128), ("prompts/b512-1", 512), ("prompts/b2048-1", 2048)]
    (preset,) = {case.preset.name: case.preset for case in cases}.values()
    assert preset.values["kv_h2o_trigger_min_tokens"] == (64,)  # sink and recent, 32 tokens, are fewer than the 36 that 128 / 3.5 leave
    assert (preset.values["kv_h2o_sink_tokens"], preset.values["kv_h2o_recent_tokens"]) == ((4,), (28,))
    with pytest.raises(ConfigError, match="expected the sampled files of bucket 128, got none"):
        plan_key(cases[0])


CASE = "cases:\n  - case: a\n    preset: target_core_gate_v5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: x\n", r"cases: expected at least one case"),
        ("cases: []\n", r"cases: expected at least one case"),
        ("casess: []\n", r"mine\.yaml:1: casess: .*did you mean 'cases'"),
        ("cases: [a]\n", r"mine\.yaml:1: case: expected a mapping"),
        ("cases:\n  - case: a\n", r"mine\.yaml:2: preset: expected a name, got nothing"),
        ("cases:\n  - preset: target_core_gate_v5\n", r"mine\.yaml:2: case: expected a name, got nothing"),
        ("cases:\n  - {case: a, preset: target_speed_v}\n", r"mine\.yaml:2: preset: .*did you mean 'target_speed_v5'"),
        (CASE + "    runs: 0\n", r"mine\.yaml:4: runs: expected an integer >= 1, got 0"),
        (CASE + "    run: 2\n", r"mine\.yaml:4: run: .*did you mean 'runs'"),
        (CASE + "    bucket: 0\n", r"mine\.yaml:4: bucket: expected an integer >= 1, got 0"),
        (CASE + "    set: {kv_h2o_sink: 3}\n", r"mine\.yaml:4: kv_h2o_sink: .*did you mean 'kv_h2o_sink_tokens'"),
        (CASE + "    set: {kv_h2o_sink_tokens: [1, 2]}\n", r"mine\.yaml:4: kv_h2o_sink_tokens: expected an integer >= 0, got \[1, 2\]"),
        (CASE + "    budgets: {max_decomp: 3}\n", r"mine\.yaml:4: max_decomp: .*did you mean 'max_decomp_us'"),
        (CASE + "    budgets: {max_decomp_us: -1}\n", r"mine\.yaml:4: max_decomp_us: expected a number >= 0, or null for off, got -1"),
        (CASE + "    budgets: {max_decomp_us: .nan}\n", r"max_decomp_us: expected a number >= 0"),
        (CASE + "    budgets: {max_decomp_us: off}\n", r"max_decomp_us: expected a number >= 0, or null for off, got False"),
        (CASE + "  - case: a\n    preset: target_store_v5\n", r"cases: expected each case name once, got 'mine/a-1' twice"),
        ("cases: [{pack: mine}]\n", r"mine\.yaml: pack: expected packs that do not include themselves"),
        ("cases: [{pack: m4}]\n", r"mine\.yaml:1: pack: .*expected the name of a pack or a path, got 'm4'"),
        ("cases: [{pack: m3, runs: 2}]\n", r"mine\.yaml:1: runs: expected a known key of included pack"),
    ],
)
def test_a_bad_pack_is_refused_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_pack(pack_file(tmp_path, text))
    assert "\n" not in str(caught.value)
