"""``h2o-gate``: where, analyze, and one-line errors."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from h2o_gate_plugin.cli import _parser, main
from h2o_gate_plugin.exit_codes import ExitCode

HEADER = "role,prompt_tokens,gen_tokens,decode_tps,h2o_lossy,h2o_lossless_decomp_us,h2o_lossless_queue_peak,h2o_lossless_fallback"
GOOD = ("candidate,512,128,200.0,3.2,500.0,1.0,0.0", "candidate,1024,128,190.0,3.1,600.0,2.0,0.0")


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def online(path: Path, ratio: object) -> Path:
    path.write_text(json.dumps({"lossless_ratio": ratio}), encoding="utf-8")
    return path


def analyze(tmp_path: Path, *rows: str, extra: tuple[str, ...] = (), ratio: object = 1.4) -> int:
    table, result = write(tmp_path / "h2o_metrics.csv", *rows), online(tmp_path / "online.json", ratio)
    return main(["analyze", "--csv", str(table), "--offline-lossless-online-json", str(result), "--decode-baseline", "195", *extra])


def test_where_names_the_embedded_engine_and_the_reference_models_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert Path(paths["llm_bench"]).is_file()
    assert json.loads(Path(paths["model_config"]).read_text(encoding="utf-8"))


def test_analyze_writes_the_seeds_quality_gate_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze(tmp_path, *GOOD, extra=("--out", str(tmp_path / "summary.md"))) == 0
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    section = text[text.index("## Quality Gate") :]
    for line in ("- quality_status: PASS", "- lossy_pass: true", "- decode_pass: true", "- overall_pass: true"):
        assert line in section
    assert "- overall_pass: true" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "gate"),
    [
        (("--lossy-target", "3.15"), "lossy_pass"),
        (("--lossless-target", "1.5"), "lossless_online_pass"),
        (("--decode-drop-target", "0.01"), "decode_pass"),
        (("--max-lossless-decomp-us", "550"), "runtime_decomp_pass"),
        (("--max-lossless-queue-peak", "1"), "runtime_queue_peak_pass"),
    ],
)
def test_every_target_of_analyze_changes_the_outcome(
    tmp_path: Path, extra: tuple[str, ...], gate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(tmp_path, *GOOD, extra=extra) == 1
    assert f"- {gate}: false" in capsys.readouterr().out


def test_the_cases_of_a_csv_are_judged_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "case,role,run_id,pair," + HEADER.removeprefix("role,")
    lines = [header]
    for case, candidate in (("m3/joint_full-1", 200.0), ("m3/joint_store-1", 150.0)):
        for role, speed in (("baseline", 200.0), ("candidate", candidate)):
            lines.append(f"{case},{role},run_0001_p512_g128_k0.3,1,512,128,{speed},3.2,500.0,1.0,0.0")
    (tmp_path / "h2o_metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = online(tmp_path / "online.json", 1.4)
    words = ["analyze", "--csv", str(tmp_path / "h2o_metrics.csv"), "--offline-lossless-online-json", str(result)]
    assert main([*words, "--decode-aggregate", "avg"]) == 1
    out = capsys.readouterr().out
    assert "| m3/joint_full-1 | decode_pass | PASS | 0.000 |" in out
    assert "| m3/joint_store-1 | decode_pass | FAIL | 0.250 |" in out
    assert main(words) == 1
    assert "| m3/joint_full-1 | decode_pass | INCONCLUSIVE | 0.000 |" in capsys.readouterr().out


def test_decompression_is_required_unless_told_otherwise(tmp_path: Path) -> None:
    idle = "candidate,512,128,200.0,3.2,0.0,1.0,0.0"
    assert analyze(tmp_path, idle) == 1
    assert analyze(tmp_path, idle, extra=("--require-runtime-decomp", "false")) == 0


def test_a_fallback_is_over_its_default_limit_and_may_be_switched_off(tmp_path: Path) -> None:
    row = "candidate,512,128,200.0,3.2,500.0,1.0,1.0"
    assert analyze(tmp_path, row) == 1
    assert analyze(tmp_path, row, extra=("--max-lossless-fallback", "off")) == 0


def test_without_an_online_result_the_verdict_is_false(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "h2o_metrics.csv", *GOOD)
    upper = online(tmp_path / "upper.json", 1.6)
    assert main(["analyze", "--csv", str(table), "--decode-baseline", "195", "--offline-lossless-json", str(upper)]) == 1
    out = capsys.readouterr().out
    assert "- lossless_online_pass: false" in out
    assert "- offline_upper_bound: 1.6000" in out


@pytest.mark.parametrize("ratio", ["1.4", True, None, -1])
def test_an_offline_result_without_a_ratio_is_refused(tmp_path: Path, ratio: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze(tmp_path, *GOOD, ratio=ratio) == 4
    assert "lossless_ratio" in capsys.readouterr().err


def test_wrong_words_end_with_the_code_of_wrong_configuration_in_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["analyse"], ["bench", "--prompt", "1"], ["analyze"], ["where", "--jsn"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == ExitCode.WRONG_CONFIGURATION
        assert "--help" in capsys.readouterr().err


def test_the_help_of_every_command_says_what_it_does_and_every_option_what_it_is_for() -> None:
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert {"bench", "sweep", "parse", "offline", "analyze", "where", "schema"} <= set(commands.choices)
    for name, parser in commands.choices.items():
        assert parser.description, name
        assert all(action.help for action in parser._actions), name


def test_the_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {int(code)} ", text, flags=re.MULTILINE) for code in ExitCode)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"h2o-gate {version('pytest-h2o-gate')}\n"


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    """As bash asks: argcomplete answers on descriptor 8, which a file takes the place of."""
    line = "h2o-gate analyze --max-lossless-q"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer")}
    subprocess.run([sys.executable, "-m", "h2o_gate_plugin.cli"], env={**os.environ, **asked}, check=True)
    assert (tmp_path / "answer").read_text(encoding="utf-8").strip() == "--max-lossless-queue-peak"


def test_errors_are_one_line_and_exit_code_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv in (
        ["analyze", "--csv", str(tmp_path / "none.csv")],
        ["parse", "--log-dir", str(tmp_path), "--out-csv", str(tmp_path / "o.csv")],
        ["offline", "--dump-dir", str(tmp_path)],
        ["sweep", "--preset", "target_core_gate_v7", "--dry-run"],
    ):
        assert main(argv) == 4
        error = capsys.readouterr().err
        assert error.startswith("h2o-gate: ")
        assert error.count("\n") == 1
