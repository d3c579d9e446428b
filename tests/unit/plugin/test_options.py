"""Where a setting's value comes from, what is refused, and that no option is dead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.gates.result import GATE_NAMES
from h2o_gate_plugin.options import OPTIONS, Settings, resolve

CWD = Path("/work-dir")


def settings_from(
    typed: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None, ini: Mapping[str, str] | None = None
) -> Settings:
    return resolve(typed or {}, env or {}, ini or {}, CWD, CWD / "ini")


def test_command_line_beats_environment_beats_ini_beats_default() -> None:
    typed, env, ini = {"min_lossy": "2.1"}, {"H2O_MIN_LOSSY": "2.2"}, {"h2o_min_lossy": "2.3"}
    expected = [
        (settings_from(typed, env, ini), 2.1, "command line --min-lossy"),
        (settings_from({}, env, ini), 2.2, "environment H2O_MIN_LOSSY"),
        (settings_from({}, {}, ini), 2.3, "ini h2o_min_lossy"),
        (settings_from(), 3.0, "default"),
    ]
    for settings, value, origin in expected:
        assert (settings.min_lossy, settings.origins["min_lossy"]) == (value, origin)


@pytest.mark.parametrize(
    ("name", "variable", "text", "value"),
    [
        ("max_decomp_us", "MAX_LOSSLESS_DECOMP_US", "30000", 30000.0),
        ("max_queue_peak", "MAX_LOSSLESS_QUEUE_PEAK", "4", 4.0),
        ("max_fallback", "MAX_LOSSLESS_FALLBACK", "2", 2.0),
        ("runtime_mode", "KV_LOSSLESS_RUNTIME_MODE", "store", "store"),
    ],
)
def test_the_seeds_environment_variables_work_under_their_old_names(name: str, variable: str, text: str, value: object) -> None:
    settings = settings_from(env={variable: text})
    assert getattr(settings, name) == value
    assert settings.origins[name] == f"environment {variable}"


def test_an_empty_environment_variable_counts_as_not_set() -> None:
    assert settings_from(env={"MAX_LOSSLESS_QUEUE_PEAK": ""}).origins["max_queue_peak"] == "default"


def test_the_limits_of_memory_follow_the_lossy_limit_unless_they_are_set() -> None:
    limits = settings_from({"min_lossy": "2.0"}).limits_for("m3/a-1", "m3", {})
    assert (limits.min_resident, limits.min_joint_resident) == (2.0, 2.2)
    assert limits.origin("min_joint_resident") == "1.1 x --min-lossy, command line --min-lossy"
    off = settings_from({"min_lossy": "off", "min_joint_resident": "2.5"}).limits_for("m3/a-1", "m3", {})
    assert (off.min_resident, off.min_joint_resident) == (None, 2.5)
    assert settings_from().limits_for("m3/a-1", "m3", {"min_resident": 1.5}).min_resident == 1.5


def test_all_evidence_is_required_of_the_embedded_engine_and_none_of_another_unless_it_is_said() -> None:
    def required(engine: str | None, **typed: str) -> frozenset[str]:
        return settings_from(typed).limits_for("m3/a-1", "m3", {}, engine).require_evidence

    everything = frozenset(GATE_NAMES)
    assert (required("embedded"), required("/bin/llm_bench"), required(None)) == (everything, frozenset(), frozenset())
    assert required("/bin/llm_bench", require_evidence="all") == everything
    assert required("embedded", require_evidence="none") == frozenset()
    assert required("embedded", require_evidence="tokens_pass, log_pass") == {"tokens_pass", "log_pass"}


@pytest.mark.parametrize("text", ["-1", "off", "OFF"])
def test_minus_one_and_off_switch_a_limit_off(text: str) -> None:
    assert settings_from({"max_fallback": text}).max_fallback is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_queue_peak", "-2"),
        ("max_queue_peak", "nan"),
        ("min_lossy", "inf"),
        ("min_lossy", "three"),
        ("max_decode_drop", "1"),
        ("decode_baseline", "0"),
        ("decode_baseline", "-6.6"),
        ("decode_baseline", "nan"),
        ("decode_baseline", "no/such/run"),
        ("decode_baseline_force", "maybe"),
        ("decode_aggregate", "mean"),
        ("decode_inconclusive", "skip"),
        ("decode_time_budget_s", "0"),
        ("decode_pairs", "0"),
        ("decode_pairs", "2.5"),
        ("case_timeout_s", "0"),
        ("runtime_mode", "stroe"),
        ("aggregate", "best"),
        ("backend", "cuda"),
        ("threads", "0"),
        ("dump_dir", "/no/such/folder"),
        ("from_dir", "/no/such/folder"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_in_one_line_with_the_option_and_the_value(name: str, text: str) -> None:
    option = next(option for option in OPTIONS if option.name == name)
    with pytest.raises(ConfigError) as refused:
        settings_from({name: text})
    assert option.flag in str(refused.value)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_nearest_word_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'store'"):
        settings_from({"runtime_mode": "stroe"})


@pytest.mark.parametrize(
    "typed",
    [
        {"from_dir": ".", "llm_bench": "x", "model_config": "y"},
        {"from_dir": ".", "out_dir": "."},
    ],
)
def test_options_that_contradict_each_other_are_refused(typed: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        resolve(typed, {}, {}, tmp_path, tmp_path)


def test_a_dump_beside_kept_artifacts_is_refused_only_when_they_have_an_offline_result(tmp_path: Path) -> None:
    typed = {"from_dir": ".", "dump_dir": "."}
    assert resolve(typed, {}, {}, tmp_path, tmp_path).dump_dir == tmp_path
    (tmp_path / "offline.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="its own offline result"):
        resolve(typed, {}, {}, tmp_path, tmp_path)


def test_an_engine_needs_its_model_config() -> None:
    with pytest.raises(ConfigError, match="--model-config"):
        settings_from({"llm_bench": "llm_bench"})


def test_two_names_of_one_variable_must_not_disagree() -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        settings_from(env={"H2O_MAX_FALLBACK": "1", "MAX_LOSSLESS_FALLBACK": "2"})
    assert settings_from(env={"H2O_MAX_FALLBACK": "1", "MAX_LOSSLESS_FALLBACK": "1"}).max_fallback == 1.0


def test_relative_paths_start_where_they_were_written() -> None:
    assert settings_from({"out_dir": "out"}).out_dir == CWD / "out"
    assert settings_from(ini={"h2o_out": "out"}).out_dir == CWD / "ini" / "out"


def test_a_packs_budget_counts_only_where_the_user_says_nothing() -> None:
    budgets = {"max_decomp_us": 30000.0}
    untouched = settings_from().limits_for("final/full-1", "final", budgets)
    assert (untouched.max_decomp_us, untouched.origin("max_decomp_us")) == (30000.0, "pack final")
    typed = settings_from({"max_decomp_us": "5"}).limits_for("final/full-1", "final", budgets)
    assert (typed.max_decomp_us, typed.origin("max_decomp_us")) == (5.0, "command line --max-decomp-us")


@pytest.mark.parametrize(
    ("variable", "case_id"),
    [
        ("FULL_DECOMP_BUDGET_US", "final/full-1"),
        ("STORE_DECOMP_BUDGET_US", "final/store-1"),
        ("COVERAGE_DECOMP_BUDGET_US", "final/full_coverage-1"),
        ("M3_DECOMP_BUDGET_US", "final/m3/joint_full-2"),
        ("M3_DECOMP_BUDGET_US", "m3/joint_store-1"),
    ],
)
def test_the_seeds_budgets_of_the_final_pack_reach_their_own_cases_only(variable: str, case_id: str) -> None:
    settings = settings_from(env={variable: "123", "MAX_LOSSLESS_DECOMP_US": "9"})
    ids = ("final/full-1", "final/store-1", "final/full_coverage-1", "final/m3/joint_full-2", "m3/joint_store-1", "runtime/joint_full-1")
    reached = {known for known in ids if settings.limits_for(known, "final", {}).max_decomp_us == 123.0}
    assert case_id in reached
    assert len(reached) == (2 if variable.startswith("M3") else 1)
    assert settings_from({"max_decomp_us": "5"}, {variable: "123"}).limits_for(case_id, "final", {}).max_decomp_us == 5.0


def test_an_unknown_budget_of_a_pack_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_decomp_us'"):
        settings_from().limits_for("final/full-1", "final", {"max_decomp": 1.0})


def test_the_table_of_settings_names_every_option_once() -> None:
    table = settings_from({"min_lossy": "off"}).as_table()
    assert [flag for flag, _, _ in table] == [option.flag for option in OPTIONS]
    assert ("--min-lossy", "off", "command line --min-lossy") in table
    assert ("--decode-baseline", "auto", "default") in table
