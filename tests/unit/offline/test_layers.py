"""The layers of a result: their sums, their bounds, the warning when one is passed, and their three renderings."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.kv.dump import DumpWriter
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.planes import U16, Part, Shape, StoredPlane
from h2o_gate_plugin.offline.coding import TensorByTensor
from h2o_gate_plugin.offline.command import print_result
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.layer_picture import alt_text, draw_layers
from h2o_gate_plugin.offline.layer_table import layers_csv, layers_markdown
from h2o_gate_plugin.offline.layers import LayerRow, layer_rows, warning_lines
from h2o_gate_plugin.offline.result import MOST_NAMED, OfflineResult
from h2o_gate_plugin.offline.settings import ONLINE_SIM, UPPER_BOUND, EvaluatorSettings
from h2o_gate_plugin.offline.tensor_stats import tensor_stats
from h2o_gate_plugin.offline.unit import PartSums

EVERY_LAYER = EvaluatorSettings(front_n=4)


@dataclass
class ShortCodec:
    """Keeps the true payload aside and hands out its first bytes: what is counted is less than what was needed."""

    share: float
    codec: GearV22 = field(default_factory=GearV22)
    true: dict[bytes, bytes] = field(default_factory=dict)
    name: str = "short"
    codec_id: int = 99

    def encode(self, tensor: U16, part: Part) -> bytes:
        payload = self.codec.encode(tensor, part)
        short = payload[: int(len(payload) * self.share)]
        self.true[short] = payload
        return short

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return self.codec.decode(self.true[payload], shape, part)

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.codec.plane_modes(self.true[payload], n_seq)

    def stored_planes(self, payload: bytes, n_seq: int) -> tuple[StoredPlane, StoredPlane]:
        return self.codec.stored_planes(self.true[payload], n_seq)


@pytest.fixture(scope="module")
def normal_dump_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run, two layers of 192 normal tokens: what a model's deep layers look like to an order-0 coder."""
    folder = tmp_path_factory.mktemp("layers") / "normal"
    rng = np.random.default_rng(0)
    for layer in range(2):
        keys, values = (rng.normal(size=(192, 2, 32)).astype(np.float16).view(np.uint16) for _ in "kv")
        DumpWriter(folder, "run").write(layer, keys, values, 0, "prefill")
    return folder


@pytest.fixture(scope="module")
def short_result(normal_dump_dir: Path) -> OfflineResult:
    return evaluate(normal_dump_dir, EVERY_LAYER, codec=TensorByTensor(ShortCodec(0.5)))


@pytest.mark.parametrize("settings", [EVERY_LAYER, ONLINE_SIM, UPPER_BOUND, replace(EVERY_LAYER, codec_mode="legacy")], ids=repr)
def test_layers_add_up_to_the_totals(dump_dir: Path, settings: EvaluatorSettings) -> None:
    result = evaluate(dump_dir, settings)
    assert [(row.layer, row.part) for row in result.layers] == [(n, part) for n in result.selected_layers for part in ("k", "v", "kv")]
    for part, totals in (("k", result.k), ("v", result.v), ("kv", result)):
        rows = [row.sums for row in result.layers if row.part == part]
        assert sum(row.raw_bytes for row in rows) == totals.raw_bytes
        assert sum(row.compressed_bytes for row in rows) == totals.compressed_bytes
        assert sum(row.framing_bytes for row in rows) == totals.framing_bytes
        assert all(row.payload_bytes == (row.hi_bytes or 0) + (row.lo_bytes or 0) for row in rows)
        assert all(2 * row.stats.words == row.raw_bytes for row in rows)


@pytest.mark.parametrize("settings", [EVERY_LAYER, ONLINE_SIM, UPPER_BOUND, replace(EVERY_LAYER, codec_mode="legacy")], ids=repr)
def test_an_honest_result_warns_of_nothing(dump_dir: Path, settings: EvaluatorSettings) -> None:
    result = evaluate(dump_dir, settings)
    assert result.warnings == ()
    assert not any(row.above_bound for row in result.layers)
    assert "WARNING" not in result.to_markdown()
    for row in result.layers:
        assert row.bound_share is not None
        assert 0 < row.bound_share <= 1


def test_a_row_repeats_within_its_unit_only(tmp_path: Path) -> None:
    rows = np.arange(10 * 2 * 4, dtype=np.uint16).reshape(10, 2, 4)
    for start in (0, 10):
        DumpWriter(tmp_path, "run").write(0, rows, rows, start, "prefill")
    alone, joined = (evaluate(tmp_path, settings).layers[0].sums.stats for settings in (EVERY_LAYER, UPPER_BOUND))
    assert (alone.duplicate_row_share, joined.duplicate_row_share) == (0.0, 0.5)


def test_a_codec_that_counts_half_its_bytes_is_flagged_everywhere(short_result: OfflineResult) -> None:
    document = json.loads(json.dumps(short_result.to_json()))
    assert [(unit["run_id"], unit["layer"], unit["part"]) for unit in document["above_bound"]] == [
        ("run", 0, "k"), ("run", 0, "v"), ("run", 1, "k"), ("run", 1, "v"),
    ]  # fmt: skip
    assert all(unit["payload_bytes"] < unit["bound_bytes"] for unit in document["above_bound"])
    assert [row["above_bound"] for row in document["layers"]] == [True] * 6
    assert len(short_result.warnings) == 4
    assert all("tokens 0 to 192: payload: expected at least" in line and "\n" not in line for line in short_result.warnings)
    markdown = short_result.to_markdown()
    assert markdown.count("**WARNING** run layer") == 4
    assert markdown.count(" exceeded |") == 6


def test_of_thousands_of_accounting_errors_and_runs_the_json_has_all_and_the_text_counts_the_rest(short_result: OfflineResult) -> None:
    runs = tuple(f"run_{number}" for number in range(3000))
    many = replace(short_result, above_bound=short_result.above_bound[:1] * 3000, selected_dumps=runs)
    layers = len(warning_lines(many.layers, many.above_bound)) - 3000
    assert len(many.warnings) == MOST_NAMED + 1
    assert many.warnings[-1] == f"and {3000 + layers - MOST_NAMED} more of the kind; the JSON result has them all (above_bound)"
    assert f"'run_{MOST_NAMED - 1}'] and {3000 - MOST_NAMED} more\n" in many.to_markdown()
    assert len(many.to_markdown()) < 2 * len(short_result.to_markdown()) + 10_000
    assert (len(many.to_json()["above_bound"]), many.to_json()["selected_dumps"]) == (3000, list(runs))


def test_the_command_warns_on_stderr_without_being_asked(
    dump_dir: Path, short_result: OfflineResult, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(short_result)
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["WARNING"] * 4
    assert shown.out.startswith("lossless_ratio ")
    print_result(evaluate(dump_dir, EVERY_LAYER))
    assert capsys.readouterr().err == ""


def test_raw_bytes_that_nothing_was_measured_of_are_an_accounting_error() -> None:
    """A failed entry counted as raw: every payload is honest, the layer's ratio is not."""
    tensor = np.random.default_rng(1).normal(size=(64, 2, 32)).astype(np.float16).view(np.uint16)
    honest = PartSums(tensor.nbytes, 7000, 0, 1, {"raw": 1}, {"raw": 1}, 2900, 4100, 6900, 0, tensor_stats(tensor))
    assert warning_lines(layer_rows({3: (honest, honest)}), ()) == ()
    inflated = replace(honest, raw_bytes=2 * tensor.nbytes)
    lines = warning_lines(layer_rows({3: (honest, inflated)}), ())
    assert len(lines) == 1
    assert lines[0].startswith("layer 3 V: ratio: expected at most 1.1872 (entropy bound), got 2.3406 for 16384 raw bytes of 4096 words")


@dataclass(frozen=True)
class StoredCodec:
    """Stores the words as they are, without planes."""

    name: str = "stored"
    codec_id: int = 98

    def encode(self, tensor: U16, part: Part) -> bytes:
        return tensor.tobytes()

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return np.frombuffer(payload, dtype=np.uint16).reshape(shape)

    def plane_modes(self, payload: bytes, n_seq: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (), ()

    def stored_planes(self, payload: bytes, n_seq: int) -> None:
        return None


def test_a_codec_without_planes_shows_its_figures_and_is_never_flagged(normal_dump_dir: Path) -> None:
    result = evaluate(normal_dump_dir, EVERY_LAYER, codec=TensorByTensor(StoredCodec()))
    assert result.warnings == ()
    for row in result.to_json()["layers"]:
        for key in ("hi_compressed_bytes", "lo_ratio", "bound_bytes", "bound_ratio", "bound_share"):
            assert row[key] is None
        assert row["lossless_ratio"] == 1.0
        assert row["order0_ratio"] > 1.1
    assert "| n/a | n/a |" in "\n".join(layers_markdown(result.layers))


def test_bit_shuffled_payloads_have_planes_and_no_bound(normal_dump_dir: Path) -> None:
    row = evaluate(normal_dump_dir, replace(EVERY_LAYER, bitshuffle=True)).layers[0]
    assert row.hi_ratio is not None
    assert row.bound_ratio is None
    assert not row.above_bound


def test_constant_words_have_no_finite_bound(tmp_path: Path) -> None:
    zeros = np.zeros((64, 1, 8), dtype=np.uint16)
    DumpWriter(tmp_path, "run").write(0, zeros, zeros, 0, "prefill")
    result = evaluate(tmp_path, EvaluatorSettings())
    row = result.layers[0]
    assert (row.bound_ratio, row.bound_share, row.sums.stats.order0_ratio) == (None, None, None)
    assert (row.sums.stats.zero_share, row.sums.stats.duplicate_row_share) == (1.0, 63 / 64)
    assert result.warnings == ()


def test_the_csv_holds_the_json_s_figures(dump_dir: Path) -> None:
    result = evaluate(dump_dir, ONLINE_SIM)
    rows = list(csv.DictReader(io.StringIO(layers_csv(result.layers))))
    assert len(rows) == 6
    for row, document in zip(rows, result.to_json()["layers"], strict=True):
        assert list(row) == list(document)
        assert float(row["lossless_ratio"]) == document["lossless_ratio"]
        assert row["lo_mode_counts"] == ";".join(f"{name}:{count}" for name, count in document["lo_mode_counts"].items())


def test_the_markdown_has_a_line_per_row(dump_dir: Path) -> None:
    lines = layers_markdown(evaluate(dump_dir, ONLINE_SIM).layers)
    assert len([line for line in lines if line.startswith("| ")]) == 7
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def every_text(result: OfflineResult, path: Path) -> str:
    draw_layers(result, path)
    return path.read_text()


def test_the_picture_names_its_dump_and_mode_and_says_in_words_what_it_shows(dump_dir: Path, tmp_path: Path) -> None:
    result = evaluate(dump_dir, ONLINE_SIM)
    text = every_text(result, tmp_path / "a.svg")
    assert "<title>Lossless ratio per layer: dump, chunked_grouped of 192 tokens, adaptive_v22, stage both</title>" in text
    assert alt_text(result.layers) in text
    assert every_text(result, tmp_path / "b.svg") == text
    draw_layers(result, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_says_which_marks_are_errors(short_result: OfflineResult, tmp_path: Path) -> None:
    text = every_text(short_result, tmp_path / "a.svg")
    assert "EXCEEDED" in text
    assert "K above its bound: error" in text


def test_a_row_without_figures_can_be_shown() -> None:
    row: Any = LayerRow(0, "k", PartSums(2, 2, 0, 1, {}, {}, None, None, None))
    assert "n/a" in layers_markdown((row,))[2]
    assert layers_csv((row,)).splitlines()[1].startswith("0,k,2,2,0,1.0,,,")
