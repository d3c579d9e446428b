"""K and V of other engines: .npy or .safetensors give the figures of a dump of the same words, and what cannot be read is counted."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.kv.dump import DumpWriter, EntryError
from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.offline.evaluator import evaluate
from h2o_gate_plugin.offline.result import OfflineResult
from h2o_gate_plugin.offline.settings import EvaluatorSettings, Layout
from h2o_gate_plugin.offline.sources import read_source
from h2o_gate_plugin.offline.tensor_files import read_places, read_words
from h2o_gate_plugin.offline.tensor_names import PATTERNS, parse_tensor_name

SETTINGS = EvaluatorSettings(layout="seq_head_dim")
HEAD_FIRST = EvaluatorSettings(layout="head_seq_dim")
LAYERS = (0, 1)


def words(layer: int, part: str) -> U16:
    """``[30, 2, 8]``."""
    rng = np.random.default_rng(10 * layer + (part == "v"))
    return rng.normal(size=(30, 2, 8)).astype(np.float16).view(np.uint16)


def fp16(layer: int, part: str) -> npt.NDArray[np.float16]:
    return words(layer, part).view(np.float16)


def save_npy(folder: Path, name: str = "layer_{layer}_{part}", change: Callable[[U16], Any] = lambda array: array.view(np.float16)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for layer in LAYERS:
        for part in "kv":
            np.save(folder / f"{name.format(layer=layer, part=part)}.npy", change(words(layer, part)))
    return folder


def save_bf16(path: Path, tensors: dict[str, U16]) -> None:
    """safetensors by its own layout: numpy has no bfloat16 that the library would write."""
    entries, body = [], b""
    for name, tensor in tensors.items():
        shape = ",".join(str(size) for size in tensor.shape)
        end = len(body) + tensor.nbytes
        entries.append(f'"{name}":{{"dtype":"BF16","shape":[{shape}],"data_offsets":[{len(body)},{end}]}}')
        body += tensor.tobytes()
    header = f"{{{','.join(entries)}}}".encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> OfflineResult:
    """The same words as a dump of the contract."""
    folder = tmp_path_factory.mktemp("contract")
    for layer in LAYERS:
        DumpWriter(folder, "run").write(layer, words(layer, "k"), words(layer, "v"), 0, "prefill")
    return evaluate(folder, EvaluatorSettings())


def assert_same(result: OfflineResult, expected: OfflineResult) -> None:
    assert (result.k, result.v, result.selected_entries, result.skip_reasons) == (expected.k, expected.v, expected.selected_entries, {})


@pytest.mark.parametrize("name", ["layer_{layer}_{part}", "{part}_{layer}", "layers.{layer}.{part}", "model.layers.{layer}.attn.{part}"])
def test_npy_files_give_the_figures_of_a_dump(tmp_path: Path, name: str, expected: OfflineResult) -> None:
    result = evaluate(save_npy(tmp_path / "mine", name), SETTINGS)
    assert_same(result, expected)
    assert (result.selected_dumps, result.dtypes, result.selected_layers) == (("mine",), ("fp16",), (0, 1))


@pytest.mark.parametrize(
    "name", ["layers.{}.{}", "layer_{}.{}", "past_key_values.{}.{}", "present.{}.{}", "model.layers.{}.self_attn.{}", "LAYER.{}.{}_states"]
)
def test_safetensors_give_the_figures_of_a_dump(tmp_path: Path, name: str, expected: OfflineResult) -> None:
    tensors = {name.format(layer, word): fp16(layer, word[0]) for layer in LAYERS for word in ("key", "value")}
    save_file(tensors, tmp_path / "kv.safetensors")
    assert_same(evaluate(tmp_path, SETTINGS), expected)


def test_caches_of_lists_and_several_files_in_runs_of_their_own(tmp_path: Path, expected: OfflineResult) -> None:
    for run in ("a", "deep/b"):
        (tmp_path / run).mkdir(parents=True)
        for word in ("key", "value"):
            save_file({f"{word}_cache.{layer}": fp16(layer, word[0]) for layer in LAYERS}, tmp_path / run / f"{word}.safetensors")
    result = evaluate(tmp_path, SETTINGS)
    assert result.selected_dumps == ("a", "deep/b")
    assert result.k.compressed_bytes == 2 * expected.k.compressed_bytes


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_heads_before_tokens_is_a_layout_to_be_named(tmp_path: Path, batch: bool, order: Any, expected: OfflineResult) -> None:
    def head_first(array: U16) -> Any:
        turned = array.view(np.float16).transpose(1, 0, 2)
        return np.array(turned[None] if batch else turned, order=order)

    save_npy(tmp_path, change=head_first)
    assert_same(evaluate(tmp_path, HEAD_FIRST), expected)
    read = [read_source(tmp_path, layout).entries[0] for layout in ("head_seq_dim", "seq_head_dim")]
    assert np.array_equal(read[0].words("v", False), words(0, "v"))
    assert [(entry.seq_len, entry.kv_heads, entry.head_dim) for entry in read] == [(30, 2, 8), (2, 30, 8)]


def test_tensors_without_a_layout_are_refused_and_a_dump_takes_none(tmp_path: Path, dump_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"--layout: expected seq_head_dim or head_seq_dim .* shape \(30, 2, 8\)") as caught:
        evaluate(save_npy(tmp_path), EvaluatorSettings())
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="--layout: expected none for a dump"):
        evaluate(dump_dir, SETTINGS)
    with pytest.raises(ConfigError, match="--dtype: expected none for a dump"):
        evaluate(dump_dir, EvaluatorSettings(dtype="bf16"))
    with pytest.raises(ConfigError, match="--layout: expected one of seq_head_dim, head_seq_dim"):
        EvaluatorSettings(layout="any")  # type: ignore[arg-type]


def test_bf16_of_every_source_is_the_same_words_and_is_named(tmp_path: Path, expected: OfflineResult) -> None:
    """Two 8-bit planes are two 8-bit planes: the figures are those of fp16 words with the same bits."""
    DumpWriter(tmp_path / "dump", "run", dtype="bf16").write(0, words(0, "k"), words(0, "v"), 0, "prefill")
    DumpWriter(tmp_path / "dump", "run", dtype="bf16").write(1, words(1, "k"), words(1, "v"), 0, "prefill")
    save_npy(tmp_path / "named", "layer_{layer}_{part}_bf16", lambda array: array)
    save_npy(tmp_path / "plain", change=lambda array: array)
    save_npy(tmp_path / "void", change=lambda array: array.view("V2"))
    (tmp_path / "st").mkdir()
    save_bf16(tmp_path / "st" / "kv.safetensors", {f"layers.{layer}.{part}": words(layer, part) for layer in LAYERS for part in "kv"})
    told = EvaluatorSettings(layout="seq_head_dim", dtype="bf16")
    for name, settings in (("dump", EvaluatorSettings()), ("named", SETTINGS), ("plain", told), ("void", told), ("st", SETTINGS)):
        result = evaluate(tmp_path / name, settings)
        assert_same(result, expected)
        assert result.to_json()["dtypes"] == ["bf16"]
        assert result.to_markdown().startswith("# Offline lossless evaluation (bf16)\n")


def test_words_of_two_formats_are_never_joined(tmp_path: Path) -> None:
    DumpWriter(tmp_path, "run").write(0, words(0, "k"), words(0, "v"), 0, "prefill")
    DumpWriter(tmp_path, "run", dtype="bf16").write(0, words(1, "k"), words(1, "v"), 30, "decode")
    result = evaluate(tmp_path, EvaluatorSettings(entry_mode="aggregate"))
    assert (result.selected_groups, result.dtypes) == (2, ("bf16", "fp16"))


def test_fp32_is_rounded_unless_strict_and_never_to_infinity(tmp_path: Path, expected: OfflineResult) -> None:
    save_npy(tmp_path, change=lambda array: array.view(np.float16).astype(np.float32))
    result = evaluate(tmp_path, SETTINGS)
    assert_same(result, expected)
    assert result.to_markdown().startswith("# Offline lossless evaluation (fp32 rounded to fp16)")
    with pytest.raises(DumpError, match="not_fp16 2"):
        evaluate(tmp_path, EvaluatorSettings(layout="seq_head_dim", strict_fp16=True))
    np.save(tmp_path / "layer_0_v.npy", np.full((30, 2, 8), 1e6, dtype=np.float32))
    assert evaluate(tmp_path, SETTINGS).skip_reasons == {"fp16_overflow": 1}


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def zipped(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, array=words(0, "k"))


def with_header(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        header = text.ljust(117) + "\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 960)

    return write


BAD_NPY: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "empty": ("bad_npy", lambda path: path.write_bytes(b"")),
    "text": ("bad_npy", lambda path: path.write_text("no array")),
    "truncated": ("bad_npy", lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "cut in its header": ("bad_npy", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "objects": ("unsupported_dtype", pickled),
    "a pickle": ("bad_npy", lambda path: path.write_bytes(pickle.dumps([1, 2]))),
    "an npz": ("bad_npy", zipped),
    "declares exabytes": ("bad_npy", with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (1152921504606846976, 2, 8), }")),
    "declares more than 2^64": ("bad_npy", with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (4294967296, 4294967296, 8), }")),
    "negative": ("bad_npy", with_header("{'descr': '<f2', 'fortran_order': False, 'shape': (-30, -2, 8), }")),
    "of a later version": ("bad_npy", lambda path: path.write_bytes(b"\x93NUMPY\x02\x00" + b"\xff" * 500)),
    "code in its header": ("bad_npy", with_header("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (30, 2, 8), }")),
    "no tokens": ("unsupported_shape", lambda path: np.save(path, np.zeros((0, 2, 8), dtype=np.float16))),
    "rank 2": ("unsupported_shape", lambda path: np.save(path, np.zeros((30, 16), dtype=np.float16))),
    "two sequences": ("unsupported_shape", lambda path: np.save(path, np.zeros((2, 30, 2, 8), dtype=np.float16))),
    "float64": ("unsupported_dtype", lambda path: np.save(path, np.zeros((30, 2, 8)))),
    "int8": ("unsupported_dtype", lambda path: np.save(path, np.zeros((30, 2, 8), dtype=np.int8))),
    "big endian": ("unsupported_dtype", lambda path: np.save(path, np.zeros((30, 2, 8), dtype=">f2"))),
    "words of no format": ("unsupported_dtype", lambda path: np.save(path, words(0, "k"))),
    "structured": ("bad_npy", lambda path: np.save(path, np.zeros((30, 2, 8), dtype=[("a", "<f2")]))),
    "another shape than V": ("shape_mismatch", lambda path: np.save(path, fp16(0, "k")[:29])),
    "another dtype than V": ("unsupported_dtype", lambda path: np.save(path, fp16(0, "k").astype(np.float32))),
    "missing": ("missing_partner", lambda path: path.unlink()),
    "twice": ("duplicate_tensor", lambda path: np.save(path.with_name("k_0.npy"), fp16(0, "k"))),
}


@pytest.mark.parametrize("how", BAD_NPY)
def test_a_bad_npy_is_counted_with_a_line_and_the_other_layer_is_evaluated(tmp_path: Path, how: str) -> None:
    reason, spoil = BAD_NPY[how]
    spoil(save_npy(tmp_path) / "layer_0_k.npy")
    lines: list[str] = []
    result = evaluate(tmp_path, SETTINGS, log=lines.append)
    assert result.skip_reasons[reason] == 1
    assert set(result.skip_reasons) <= {reason, "missing_partner"}  # V is left alone where K is no tensor at all
    assert result.selected_layers == (1,)
    line = next(line for line in lines if line.startswith(f"skipped {reason}: "))
    assert "layer_0" in line or "k_0" in line
    assert "\n" not in line


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@given(changes=st.lists(st.tuples(st.integers(0, 129), st.sampled_from(b"(){}[]',:019 \n\x00\xff#")), max_size=4), cut=st.integers(0, 300))
def test_whatever_a_header_holds_it_is_read_or_counted(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: Any, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    array = fp16(0, "k")[:3]
    np.save(path, array) if suffix == ".npy" else save_file({"layers.0.k": array}, path)
    data = bytearray(path.read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    path.write_bytes(data[: max(len(data) - cut, 0)] if cut < 100 else data)
    try:
        places = read_places(path)
    except EntryError:
        return
    for place in places:
        if place.dtype in ("fp16", "fp32") and len(place.shape) == 3 and min(place.shape) >= 1:
            assert read_words(place, place.dtype, "seq_head_dim", False).shape == place.shape


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside, outside = save_npy(tmp_path / "inside"), save_npy(tmp_path / "outside")
    (inside / "layer_0_k.npy").unlink()
    (inside / "layer_0_k.npy").symlink_to(outside / "layer_0_k.npy")
    assert evaluate(inside, SETTINGS).skip_reasons == {"missing_partner": 1, "unsafe_path": 1}


def test_a_folder_named_like_a_file_and_a_dangling_link_end_in_no_traceback(tmp_path: Path) -> None:
    save_npy(tmp_path)
    (tmp_path / "layer_3_k.npy").mkdir()
    (tmp_path / "layer_4_k.npy").symlink_to(tmp_path / "nowhere.npy")
    assert evaluate(tmp_path, SETTINGS).skip_reasons == {"bad_npy": 1}


@pytest.mark.parametrize("cut", [0, 5, 60, -10])
def test_a_damaged_safetensors_file_is_counted(tmp_path: Path, cut: int) -> None:
    save_npy(tmp_path / "good")
    path = tmp_path / "bad" / "kv.safetensors"
    path.parent.mkdir()
    save_file({f"layers.0.{part}": fp16(0, part) for part in "kv"}, path)
    path.write_bytes(path.read_bytes()[:cut])
    result = evaluate(tmp_path, SETTINGS)
    assert (result.skip_reasons, result.selected_dumps) == ({"bad_safetensors": 1}, ("good",))
    with pytest.raises(DumpError, match="expected"):
        evaluate(path.parent, SETTINGS)


def test_a_header_that_declares_gigabytes_allocates_nothing(tmp_path: Path) -> None:
    save_npy(tmp_path)
    header = b'{"layers.5.k":{"dtype":"F16","shape":[1000000000,2,8],"data_offsets":[0,32000000000]}}'
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    (tmp_path / "longer.safetensors").write_bytes(struct.pack("<Q", 2**62) + header)
    assert evaluate(tmp_path, SETTINGS).skip_reasons == {"bad_safetensors": 2}


def test_integers_and_other_names_in_safetensors_are_counted(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {f"layers.{layer}.{part}": fp16(layer, part) for layer in LAYERS for part in "kv"}
    save_file(tensors | {"layers.0.k": np.zeros((30, 2, 8), dtype=np.int8), "positions": np.arange(30)}, tmp_path / "kv.safetensors")
    assert evaluate(tmp_path, SETTINGS).skip_reasons == {"unknown_name": 1, "unsupported_dtype": 1}


def test_a_file_that_shrinks_after_it_was_listed_is_counted(tmp_path: Path) -> None:
    dump = read_source(save_npy(tmp_path), "seq_head_dim")
    path = tmp_path / "layer_0_v.npy"
    path.write_bytes(path.read_bytes()[:-2])
    (tmp_path / "layer_1_v.npy").unlink()
    with pytest.raises(DumpError, match="missing_file 1, size_mismatch 1"):
        evaluate(dump, SETTINGS)


@pytest.mark.parametrize(
    ("file", "message"), [("a.pt", "but a.pt; save it as safetensors or .npy"), ("a.txt", "got neither; dump or export")]
)
def test_a_folder_without_tensors_says_what_it_expected(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).write_text("x")
    with pytest.raises(DumpError, match=message):
        read_source(tmp_path, "seq_head_dim")


def test_a_folder_without_a_known_name_says_which_names_are_known(tmp_path: Path) -> None:
    save_npy(tmp_path, "tensor{layer}{part}")
    with pytest.raises(DumpError, match=r"expected names like layer_0_k, .*, got none among 4 tensors"):
        read_source(tmp_path, "seq_head_dim")


@pytest.mark.parametrize(
    "name", ["layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.k_proj", "lm_head", "layer_k", "layers.0", "k", "rank_0", "v0"]
)
def test_a_weight_is_no_kv(name: str) -> None:
    assert parse_tensor_name(name) is None


def test_every_example_of_a_pattern_is_known() -> None:
    for _, examples in PATTERNS:
        for name in examples.split(", "):
            found = parse_tensor_name(name)
            assert found is not None
            assert (found.layer, found.part, found.dtype) == (0, "k", None)
    assert parse_tensor_name("Layer_12.VALUE_bf16") == (12, "v", "bf16")


def test_layout_is_a_choice_of_two() -> None:
    layouts: tuple[Layout, ...] = ("seq_head_dim", "head_seq_dim")
    assert [EvaluatorSettings(layout=layout).layout for layout in layouts] == list(layouts)
