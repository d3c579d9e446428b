"""``h2o-gate offline``: the seed's option names, each of which changes an outcome."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.offline.command import add_offline_parser
from h2o_gate_plugin.offline.settings import EvaluatorSettings


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_offline_parser(parser.add_subparsers())
    args = parser.parse_args(["offline", *argv])
    code: int = args.run(args)
    return code


def measured(dump_dir: Path, *argv: str) -> dict[str, Any]:
    """What the run measured, without the parameters."""
    out = dump_dir.parent / "out.json"
    assert run("--dump-dir", str(dump_dir), "--out-json", str(out), "--overwrite", *argv) == 0
    document: dict[str, Any] = json.loads(out.read_text())
    return {key: value for key, value in document.items() if key not in EvaluatorSettings.__dataclass_fields__}


CHUNKED = ("--entry-mode", "chunked", "--online-chunk-seq", "40")


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ((), ("--stage", "decode")),
        ((), ("--scope", "layer_range")),
        ((), ("--front-n", "1")),
        (("--scope", "layer_range"), ("--layer-start", "1")),
        (("--scope", "layer_range"), ("--layer-end", "2")),
        (("--scope", "layer_ids", "--layer-ids", "1"), ("--layer-ids", "1,3")),
        ((), ("--zstd-level", "19")),
        ((), ("--strict-fp16",)),
        ((), ("--min-seq-len", "31")),
        ((), ("--max-seq-len", "30")),
        ((), ("--entry-mode", "aggregate")),
        (CHUNKED, ("--online-chunk-seq", "50")),
        (CHUNKED, ("--online-framing-bytes", "8")),
        (("--entry-mode", "aggregate"), ("--aggregate-by-stage",)),
        ((), ("--codec-mode", "legacy")),
        ((), ("--adaptive-block-seq", "16")),
        ((), ("--bitshuffle",)),
        ((), ("--entropy-bound", "false")),
        ((), ("--k-hi-predictors", "raw")),
        ((), ("--k-lo-predictors", "delta_seq")),
        ((), ("--v-hi-predictors", "delta_seq,xor_seq")),
        ((), ("--v-lo-predictors", "xor_seq")),
    ],
    ids=lambda argv: " ".join(argv),
)
def test_every_option_changes_what_is_measured(dump_dir: Path, base: tuple[str, ...], changed: tuple[str, ...]) -> None:
    assert measured(dump_dir, *base) != measured(dump_dir, *base, *changed)


def test_a_flag_may_be_said_in_words(dump_dir: Path) -> None:
    assert measured(dump_dir, "--bitshuffle", "false") == measured(dump_dir)
    assert measured(dump_dir, "--bitshuffle", "1") == measured(dump_dir, "--bitshuffle")


def test_json_and_markdown_are_written_and_the_ratio_is_printed(dump_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_json, out_md = tmp_path / "deep" / "r.json", tmp_path / "r.md"
    assert run("--dump-dir", str(dump_dir), "--out-json", str(out_json), "--out-md", str(out_md)) == 0
    ratio = json.loads(out_json.read_text())["lossless_ratio"]
    assert f"lossless_ratio {ratio:.4f}" in capsys.readouterr().out
    assert f"- lossless_ratio: {ratio}" in out_md.read_text()


OUTPUTS = {"--out-json": '"lossless_ratio"', "--out-md": "lossless_ratio", "--out-csv": "lossless_ratio", "--out-svg": "<svg"}


@pytest.mark.parametrize("option", OUTPUTS)
def test_an_output_file_is_replaced_only_with_overwrite(dump_dir: Path, tmp_path: Path, option: str) -> None:
    out = tmp_path / f"out.{option.rpartition('-')[2]}"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="pass --overwrite"):
        run("--dump-dir", str(dump_dir), option, str(out))
    assert out.read_text() == "mine"
    assert run("--dump-dir", str(dump_dir), option, str(out), "--overwrite") == 0
    assert OUTPUTS[option] in out.read_text()


def test_a_png_is_drawn_into_a_new_folder(dump_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "layers.png"
    assert run("--dump-dir", str(dump_dir), "--out-png", str(out)) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_verbose_says_what_was_measured_and_skipped(own_dump_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_dump_dir / "run_a" / "layer_0" / "k_t0_75.bin").unlink()
    run("--dump-dir", str(own_dump_dir))
    assert capsys.readouterr().err == ""
    run("--dump-dir", str(own_dump_dir), "--verbose")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert sum(line.startswith("skipped missing_file: ") for line in lines) == 1


def test_jobs_change_no_figure_and_do_not_enter_the_result(dump_dir: Path) -> None:
    one = measured(dump_dir, "--jobs", "1")
    assert one == measured(dump_dir, "--jobs", "3") == measured(dump_dir, "--jobs", "auto") == measured(dump_dir)
    assert not {"jobs", "dask_scheduler", "quiet"} & set(one)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("argv", "shows"), [((), True), (("--quiet",), False), (("--quiet", "false"), True), (("--verbose",), False)])
def test_a_terminal_shows_progress_unless_told_to_be_quiet_or_verbose(
    dump_dir: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], shows: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("h2o_gate_plugin.offline.unit_progress.FIRST_BAR_S", 0.0)
    run("--dump-dir", str(dump_dir), "--jobs", "1", *argv)
    assert ("] 1 of 12 units, " in terminal.getvalue()) is shows


def test_jobs_beside_a_scheduler_are_refused(dump_dir: Path) -> None:
    with pytest.raises(ConfigError, match="--jobs: expected nothing beside --dask-scheduler, got 2"):
        run("--dump-dir", str(dump_dir), "--jobs", "2", "--dask-scheduler", "tcp://127.0.0.1:8786")


def test_bad_input_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="expected meta_t"):
        run("--dump-dir", str(tmp_path))
    with pytest.raises(ConfigError, match="--online-chunk-seq"):
        run("--dump-dir", str(tmp_path), "--entry-mode", "chunked")


@pytest.mark.parametrize(
    "argv",
    [
        ("--jobs", "0"),
        ("--jobs", "many"),
        ("--jobs", "1025"),
        ("--layer-ids", "1,x"),
        ("--bitshuffle", "maybe"),
        ("--stage", "all"),
        ("--zstd-level", "3.0"),
    ],
)
def test_a_word_of_the_wrong_kind_is_a_usage_error(dump_dir: Path, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--dump-dir", str(dump_dir), *argv)
    assert caught.value.code == 2
    assert argv[0] in capsys.readouterr().err
