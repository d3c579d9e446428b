"""The KV dump: what is written is what the contract says, and what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_gate_plugin.errors import DumpError
from h2o_gate_plugin.kv.codec import U16
from h2o_gate_plugin.kv.dump import DumpWriter, EntryError, Stage, StageFilter, read_dump, read_tensor

KEYS: U16 = np.random.default_rng(2).normal(size=(6, 2, 4)).astype(np.float16).view(np.uint16)
VALUES: U16 = KEYS[::-1].copy()


def one_entry(folder: Path, **changes: Any) -> Path:
    """A whole entry of tokens [0, 6), its meta changed (None = key removed)."""
    meta_path = DumpWriter(folder, "run").write(1, KEYS, VALUES, 0, "prefill")
    assert meta_path is not None
    meta = json.loads(meta_path.read_text()) | changes
    meta_path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return meta_path


def test_an_entry_has_the_contract_s_names_bytes_and_meta(tmp_path: Path) -> None:
    meta_path = DumpWriter(tmp_path, "r1").write(3, KEYS, VALUES, 10, "decode")
    assert meta_path == tmp_path / "r1" / "layer_3" / "meta_t10_16.json"
    assert (meta_path.parent / "k_t10_16.bin").read_bytes() == KEYS.astype("<u2").tobytes()
    assert (meta_path.parent / "v_t10_16.bin").read_bytes() == VALUES.astype("<u2").tobytes()
    assert json.loads(meta_path.read_text()) == {
        "layer_id": 3, "seq_start": 10, "seq_len": 6, "seq_end_exclusive": 16, "kv_heads": 2, "head_dim": 4, "bytes_per_elem": 2,
        "dtype": "fp16", "stage": "decode", "run_id": "r1", "k_file": "k_t10_16.bin", "v_file": "v_t10_16.bin", "quant_key": 0,
        "quant_value": 0, "flash_attention": 0, "add": 6, "tensor_seq_len": 16,
    }  # fmt: skip


def test_what_is_written_is_read_back_with_its_place(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, "r1")
    writer.write(1, KEYS, VALUES, 0, "prefill")
    writer.write(1, VALUES, KEYS, 6, "decode")
    dump = read_dump(tmp_path)
    assert [(entry.run_id, entry.layer, entry.stage, entry.seq_start, entry.seq_len) for entry in dump.entries] == [
        ("r1", 1, "prefill", 0, 6),
        ("r1", 1, "decode", 6, 6),
    ]
    assert dump.skipped == ()
    assert np.array_equal(read_tensor(dump.entries[0], "k"), KEYS)
    assert np.array_equal(read_tensor(dump.entries[1], "k"), VALUES)
    assert np.array_equal(read_tensor(dump.entries[1], "v"), KEYS)


@pytest.mark.parametrize(("stage", "written"), [("both", ["decode", "prefill"]), ("prefill", ["prefill"]), ("decode", ["decode"])])
def test_the_stage_says_which_entries_are_written(tmp_path: Path, stage: StageFilter, written: list[Stage]) -> None:
    writer = DumpWriter(tmp_path, "r1", stage)
    results = {entry_stage: writer.write(0, KEYS, VALUES, start, entry_stage) for start, entry_stage in ((0, "prefill"), (6, "decode"))}  # type: ignore[arg-type]
    assert sorted(entry_stage for entry_stage, path in results.items() if path is not None) == written
    assert sorted(entry.stage for entry in read_dump(tmp_path).entries) == written


def test_max_tokens_cuts_at_a_position_of_the_sequence(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, "r1", max_tokens=8)
    assert writer.write(0, KEYS, VALUES, 0, "prefill") is not None
    assert writer.write(0, KEYS, VALUES, 6, "decode") is not None
    assert writer.write(0, KEYS, VALUES, 12, "decode") is None
    assert [(entry.seq_start, entry.seq_len) for entry in read_dump(tmp_path).entries] == [(0, 6), (6, 2)]
    assert np.array_equal(read_tensor(read_dump(tmp_path).entries[1], "v"), VALUES[:2])


def test_an_entry_is_never_overwritten(tmp_path: Path) -> None:
    DumpWriter(tmp_path, "r1").write(0, KEYS, VALUES, 0, "prefill")
    with pytest.raises(DumpError, match=r"File exists .*k_t0_6.bin.*; set another run id"):
        DumpWriter(tmp_path, "r1").write(0, VALUES, KEYS, 0, "prefill")
    assert np.array_equal(read_tensor(read_dump(tmp_path).entries[0], "k"), KEYS)


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "a\\b", "/abs"])
def test_a_run_id_that_is_no_folder_name_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(DumpError, match="expected a plain folder name"):
        DumpWriter(tmp_path, run_id)


def test_wrong_writer_settings_and_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="expected prefill, decode, both, got 'all'"):
        DumpWriter(tmp_path, "r1", "all")  # type: ignore[arg-type]
    with pytest.raises(DumpError, match="expected an integer >= 1"):
        DumpWriter(tmp_path, "r1", max_tokens=0)
    with pytest.raises(DumpError, match="expected K and V of one shape"):
        DumpWriter(tmp_path, "r1").write(0, KEYS, VALUES[:5], 0, "prefill")
    (tmp_path / "file").write_text("")
    with pytest.raises(DumpError, match="expected a writable folder"):
        DumpWriter(tmp_path / "file", "r1").write(0, KEYS, VALUES, 0, "prefill")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_id": None}, "bad_meta"),
        ({"layer_id": -1}, "bad_meta"),
        ({"layer_id": True}, "bad_meta"),
        ({"seq_len": 6.0}, "bad_meta"),
        ({"seq_len": 0, "seq_end_exclusive": 0}, "bad_meta"),
        ({"seq_end_exclusive": 7}, "bad_meta"),
        ({"stage": "both"}, "bad_meta"),
        ({"run_id": 7}, "bad_meta"),
        ({"k_file": None}, "bad_meta"),
        ({"dtype": "int8", "bytes_per_elem": 1}, "unsupported_dtype"),
        ({"dtype": "fp16", "bytes_per_elem": 4}, "unsupported_dtype"),
        ({"k_file": "../../../secret.bin"}, "unsafe_path"),
        ({"v_file": "/etc/hostname"}, "unsafe_path"),
        ({"v_file": "v\0.bin"}, "unsafe_path"),
        ({"v_file": "link.bin"}, "unsafe_path"),
    ],
)
def test_a_meta_file_that_breaks_the_contract_is_skipped_by_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "secret.bin").write_bytes(KEYS.tobytes())
    meta_path = one_entry(tmp_path / "dump", **changes)
    (meta_path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    dump = read_dump(tmp_path / "dump")
    assert dump.entries == ()
    assert [skip.reason for skip in dump.skipped] == [reason]
    assert str(meta_path) in dump.skipped[0].message
    assert "\n" not in dump.skipped[0].message


@pytest.mark.parametrize("text", ["{", "[]", "null", b"\xff\xfe"])
def test_a_meta_file_that_is_no_json_object_is_skipped(tmp_path: Path, text: str | bytes) -> None:
    meta_path = one_entry(tmp_path)
    meta_path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert [skip.reason for skip in read_dump(tmp_path).skipped] == ["bad_meta_json"]


@pytest.mark.parametrize("n_bytes", [0, 95, 97])
def test_a_binary_of_another_size_is_refused(tmp_path: Path, n_bytes: int) -> None:
    (one_entry(tmp_path).parent / "v_t0_6.bin").write_bytes(b"\0" * n_bytes)
    entry = read_dump(tmp_path).entries[0]
    assert np.array_equal(read_tensor(entry, "k"), KEYS)
    with pytest.raises(EntryError, match=f"expected 96 bytes .* got {n_bytes}") as caught:
        read_tensor(entry, "v")
    assert caught.value.reason == "size_mismatch"


def test_a_missing_binary_is_refused(tmp_path: Path) -> None:
    (one_entry(tmp_path).parent / "k_t0_6.bin").unlink()
    with pytest.raises(EntryError) as caught:
        read_tensor(read_dump(tmp_path).entries[0], "k")
    assert caught.value.reason == "missing_file"


def test_four_byte_elements_are_rounded_to_fp16_unless_strict_and_refused_where_they_overflow(tmp_path: Path) -> None:
    wide = np.random.default_rng(3).normal(size=(6, 2, 4)).astype("<f4")
    wide[0, 0, 0] = np.inf
    folder = one_entry(tmp_path, dtype="fp32", bytes_per_elem=4).parent
    (folder / "k_t0_6.bin").write_bytes(wide.tobytes())
    wide[1, 1, 1] = 70_000.0
    (folder / "v_t0_6.bin").write_bytes(wide.tobytes())
    entry = read_dump(tmp_path).entries[0]
    assert np.array_equal(read_tensor(entry, "k").view(np.float16)[0, 0, 1:], wide[0, 0, 1:].astype(np.float16))
    for part, strict, reason in (("k", True, "not_fp16"), ("v", False, "fp16_overflow")):
        with pytest.raises(EntryError) as caught:
            read_tensor(entry, part, strict)  # type: ignore[arg-type]
        assert caught.value.reason == reason


def test_a_folder_that_is_missing_or_holds_no_meta_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="expected a folder, got none"):
        read_dump(tmp_path / "nowhere")
    with pytest.raises(DumpError, match=r"expected meta_t<start>_<end>\.json files, got none"):
        read_dump(tmp_path)
