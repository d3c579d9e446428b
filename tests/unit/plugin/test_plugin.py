"""Selection, refusals and fixtures of the plugin."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.gates.checks import GATES
from h2o_gate_plugin.gates.result import GATE_NAMES, OVERALL
from h2o_gate_plugin.options import GROUPS

from .conftest import GateProject


@pytest.mark.parametrize("args", [(), ("-m", "lossy"), ("-m", "not runtime"), (".",)])
def test_without_a_pack_the_acceptance_tests_do_not_run_and_the_header_says_so(project: GateProject, args: tuple[str, ...]) -> None:
    result = project.start(*args)
    result.stdout.fnmatch_lines(["h2o-gate: no pack selected*"])
    result.assert_outcomes()
    assert project.calls() == []
    assert not (project.path / "h2o-out").exists()


def test_a_typed_acceptance_path_is_a_wish_to_run_it(project: GateProject) -> None:
    options = [option for option in project.engine_options if option not in ("--preset", "mini.yaml")]
    result = project.start("acceptance/test_lossy.py::test_eviction_shrinks_the_cache_enough[runtime/joint_full-1]", *options)
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_m3_collects_four_cases_with_a_test_for_each_gate_and_a_case_s_gates_stand_together(project: GateProject) -> None:
    result = project.start("acceptance", "-m", "m3", "--collect-only", "-q")
    ids = [line.partition("[")[2].rstrip("]") for line in result.outlines if "[m3/" in line]
    cases = ("m3/joint_full-1", "m3/joint_full-2", "m3/joint_full-3", "m3/joint_store-1")
    assert ids == [case for case in cases for _ in (*GATE_NAMES, OVERALL)]


def test_a_pack_and_a_gate_select_one_test_per_case(project: GateProject) -> None:
    result = project.start("acceptance", "-m", "m3 and decode_drop", "--collect-only", "-q")
    assert sum("test_decode_drop.py" in line for line in result.outlines) == 4
    assert not any("test_lossy.py" in line for line in result.outlines)


def test_the_markers_are_listed(project: GateProject) -> None:
    listed = project.start("--markers").stdout.str()
    for marker in ("runtime", "m3", "final", *(gate.marker for gate in GATES.values()), "overall"):
        assert f"@pytest.mark.{marker}: " in listed


def test_the_help_lists_the_options_in_their_own_groups(project: GateProject) -> None:
    text = project.start("--help").stdout.str()
    for heading in GROUPS.values():
        assert heading in text
    for flag in ("--max-decomp-us", "--h2o-from", "--decode-baseline", "--aggregate"):
        assert flag in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--min-lossy=three",), ("--min-lossy", "'three'")),
        (("--decode-baseline=0",), ("--decode-baseline", "> 0")),
        (("--llm-bench=missing", "--model-config=config.json"), ("missing", "no such file")),
        (("--llm-bench=config.json", "--model-config=config.json"), ("config.json", "chmod")),
        (("--model-config=mini.yaml",), ("mini.yaml", "JSON")),
        (("--preset=target_core_gate_v7",), ("target_core_gate_v7", "did you mean")),
        (("--h2o-from=empty",), ("empty", "--h2o-from")),
        (("--h2o-from=.", "--llm-bench=config.json", "--model-config=config.json"), ("--h2o-from", "--llm-bench", "contradict")),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_anything_runs(
    project: GateProject, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (project.path / "empty").mkdir()
    result = project.start("acceptance", "-m", "runtime", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.strip()]
    assert len(errors) == 1
    assert all(word in errors[0] for word in words)
    assert not (project.path / "h2o-out").exists()


@pytest.mark.parametrize("option", ["--preset=mini.yaml", "--runtime-mode=store"])
def test_options_of_the_single_run_pack_are_refused_for_packs_that_fix_their_cases(project: GateProject, option: str) -> None:
    for selection in (("acceptance", "-m", "m3"), ("acceptance",)):
        result = project.start(*selection, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "fix their own preset and mode" in result.stderr.str()


def test_an_unknown_key_of_a_preset_is_refused_with_file_line_and_nearest_key(project: GateProject) -> None:
    (project.path / "typo.yaml").write_text("prompts: [64]\ngens: [8]\nkv:\n  kv_h2o_blok_tokens: 8\n", encoding="utf-8")
    result = project.start("acceptance", "-m", "runtime", "--preset=typo.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "typo.yaml:4" in result.stderr.str()
    assert "kv_h2o_block_tokens" in result.stderr.str()


def test_a_finished_run_is_never_overwritten(project: GateProject) -> None:
    assert project.run("acceptance", "-m", "runtime and lossy").ret == 0
    again = project.run("acceptance", "-m", "runtime and lossy")
    assert again.ret == pytest.ExitCode.USAGE_ERROR
    assert "expected no finished run" in again.stderr.str()


def test_the_fixtures_serve_tests_of_another_project(project: GateProject) -> None:
    (project.path / "own").mkdir()
    (project.path / "own" / "test_own.py").write_text(
        "def test_own(h2o_case, h2o_settings, h2o_engine, h2o_offline):\n"
        "    result = h2o_case.gate('lossy_pass')\n"
        "    assert result.value == 3.2 and h2o_case.id == 'runtime/joint_full-1'\n"
        "    assert h2o_case.evidence.rows[0].mean('h2o_lossless_queue_peak') == 1.0\n"
        "    assert h2o_settings.decode_pairs == 1 and h2o_engine.name.endswith('scripted_llm_bench.py')\n"
        "    assert h2o_offline.online_sim_ratio > 1.3\n",
        encoding="utf-8",
    )
    result = project.run("own", "-m", "runtime")
    result.assert_outcomes(passed=1)
    assert project.statuses() == {"lossy_pass": "PASS"}


def test_other_tests_run_as_ever_beside_the_plugin(project: GateProject) -> None:
    project.pytester.makepyfile("def test_plain():\n    assert True\n")
    project.start().assert_outcomes(passed=1)
