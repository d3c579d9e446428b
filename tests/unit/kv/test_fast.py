"""``kv_fast``: what it expects, what it refuses, and the payloads that must decode for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Part, codec_by_id, codec_by_name
from h2o_gate_plugin.kv.fast import KvFast
from h2o_gate_plugin.kv.fast_tables import CERTAIN, CONTEXTS, ESCAPE, ESCAPED, SLOTS, tables
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.words import rounded
from h2o_gate_plugin.kv_options import KvDtype

RAW_FLAG, LOW_FRAME_FLAG = 16, 8
PARTS: tuple[Part, ...] = ("k", "v")
DTYPES: tuple[KvDtype, ...] = ("fp16", "bf16")

TABLE_HASHES = {
    "slots": "3fa7d2597b730d95",
    "codes": "feca40e4f5b90b6a",
    "reciprocals": "d4cc27f6e3f8eb00",
    "roots": "87874290ab180b75",
    "inverse_roots": "f656b66d129888ff",
    "steps": "84a2710ad8f80e15",
}
GOLDEN: dict[tuple[KvDtype, Part], str] = {
    ("fp16", "k"): (
        "0106432fbc8961018305352fcf88b080191185719d1b53581319047b2100c601fd08f223fbffff3f840058c3e5d131ffe05db05839ddfd2fda645442"
        "e1ebecd25c606623446121faecfcbf4ca8cd48d30ed969df880a324405777442705e21ce49c3cfd0add6aa764c85412d8836d8c1b5ce8dd954eafc18"
        "dc7d499cff80007121f374aead55174cd9c717927f4b07012bc41bdf7ddfeaaf45c87442705e21ce49c3cfd0add6aa764c85770992babb3b7f675648"
        "b1fe30c09c01811fcfb6e5639758fa9171e7817d339c02b9bcecd21e6a7e8a1049e647553553260b169eca4708e96b62a2c3d381c9cec8e012507d5f"
        "2402456b9690c32997707ec39664099e140030266f8811422c0a7442705e21ce49c3cfd0add6aa764c85993077c0b57c2e64504e838e38d4c9210feb"
        "929aad570a0080bc450031a6580049530600de7d0b004596360000d37000f5ed61026151523f50e82ebb2cd85cefa5cc18ec9e6f5e967a9409539a79"
        "fd967e67205799e7023ecfd8846d74016266889b213a315c29ceeca513950a29f8f56e2f8369dd2990b142a12b94c6797a4c55e09a1645eadf84c008"
        "22ad078c91212f6d29688f6e817338fb07f96b58689db83f8779a4c3e48128991f5a00f81f1f80ff7f"
    ),
    ("fp16", "v"): (
        "0100432f7c62160c16f5cbb308031e5161d7794c594746f08500c06e910969962d526921c71e6b28e61058c3e5d131ffe05db05839ddfd2fda645442"
        "e1ebecd25c606623446121faecfcbf4ca8cd48d30ed969df880a324405777442705e21ce49c3cfd0add6aa764c85412d8836d8c1b5ce8dd954eafc18"
        "dc7d499cff80007121f374aead55174cd9c717927f4b07012bc41bdf7ddfeaaf45c8770992babb3b7f675648b1fe30c09c01811fcfb6e5639758fa91"
        "71e7817d339c02b9bcecd21e6a7e8a1049e647553553260b169eca4708e96b62a2c3d381c9cec8e012507d5f2402456b9690c32997707ec39664099e"
        "140030266f8811422c0a993077c0b57c2e64504e838e38d4c9210f030200a59328008db8bd43461e3a0d4f277400a4b5220015ee6fe8353702009aaf"
        "76531c3616c93b184a8f0a00f9f51f29befe30e4fe8f194929637d4f88b14d599cf3bd7a7e49bfbc84282c6cc37465c6d83975b4c134c61288dc2d94"
        "bac8252650d64c6feaaa45dd2c77c64ba3954ce2089e0bbe7cbe6e86e5c53cd445b43d03a161296000601f80ff7f"
    ),
    ("bf16", "k"): (
        "0107432fbc8961018305352fcf88b080191185719d1b53581319047b2100c601bd08f223fbffff3f84000b776d0067761d0ecc6e0af1de35638d2046"
        "7eff38559db4d88dc76050780e394674c25adb5d5f8ac8c4b3f1d572affe0787897e001cf1cfda35d4ce43c21440c98343de6dca0e394674c25adb5d"
        "5f8a2fc87b0f6c2b5960f00490e8dbd95c5fba0ea199e062af498351a49ed651250c9a53e88d51ac61d6990b051901a94d89cb74104f16e800a6b828"
        "90090e394674c25adb5d5f8ad33c7ca1694a417974260feb929aad570a0080bc45004356350057c70800692f09002dee3f0000d37000f5edfd466151"
        "6aef50e81d7f2cd85cefa5cc18ec95375e967a9414039a79fd967e67205796ff023ecfd8846d56d96266889b213a395c29ceeca513950a29f8f56e2f"
        "8369a2b090b142a12b94c6797a4c55e09a1645eadf84c00822ad078c91212f6d29688f6e817338fb07f96b58689db83f8779a4c3e48128991f5a00f8"
        "df01df010004fc07ff03"
    ),
    ("bf16", "v"): (
        "0101432f7c62160c16f5cbb308031e5161d7794c594746f08500c06e910969962d5269a1c61e6b28e6100b776d0067761d0ecc6e0af1de35638d2046"
        "7eff38559db4d88dc76050780e394674c25adb5d5f8ac8c4b3f1d572affe0787897e001cf1cfda35d4ce43c21440c98343de6dca2fc87b0f6c2b5960"
        "f00490e8dbd95c5fba0ea199e062af498351a49ed651250c9a53e88d51ac61d6990b051901a94d89cb74104f16e800a6b8289009d33c7ca1694a4179"
        "742620e302009c9b28008db8bd4353328907336ba3008ebb1b0015ee6fe8056b0400988f7f934dba41693b18433b0a00f9f5ceecccbe35e8fe8ffd29"
        "30d3844788b1e374bd7abb017e49e45c99346b00ebdc65c6d83975b4be74adba88dc27680821767a4e9251df412f45dd2c77c64ba39516e0089e0bbe"
        "7cbe6e86e5c53cd445b43d03a16129600060df010004fc07ff03"
    ),
}


def related_rows(n_seq: int, n_kv_head: int = 2, head_dim: int = 64, dtype: KvDtype = "fp16", part: Part = "v") -> U16:
    """Channels of unequal deviation and mean. K: rows near the row before; V: near an earlier one, each seventh equal to one.

    Integer noise: the same words everywhere.
    """
    n = n_kv_head * head_dim
    noise = np.random.default_rng(3).integers(-1000, 1001, (4, n_seq, n)).sum(axis=0) / 1000
    rows = noise * 2.0 ** (np.arange(n) % 5 - 3) + np.arange(n) % 3 / 4
    back = 1 if part == "k" else 2
    for row in range(back, n_seq):
        rows[row] = rows[row // 2] if part == "v" and row % 7 == 0 else 0.75 * rows[row - back] + 0.25 * rows[row]
    return rounded(rows.astype(np.float32).reshape(n_seq, n_kv_head, head_dim), dtype, "test")


def golden_tensor(dtype: KvDtype) -> U16:
    """With an escape of each kind: a NaN, an infinity, a negative zero."""
    tensor = related_rows(16, 1, 16, dtype)
    tensor[5, 0, 2:5] = 0x7FFF, 0xFF80, 0x8000
    return tensor


def shape_of(tensor: U16) -> tuple[int, int, int]:
    return (tensor.shape[0], tensor.shape[1], tensor.shape[2])


def damaged_outcome(payload: bytes, shape: tuple[int, int, int]) -> U16 | None:
    """What a payload decodes to; None where it is refused."""
    try:
        decoded = KvFast().decode(payload, shape, "k")
    except CodecError:
        return None
    assert decoded.shape == shape
    return decoded


@settings(max_examples=60)
@given(
    tensor=arrays(np.uint16, st.tuples(st.integers(0, 40), st.integers(1, 3), st.integers(0, 11))),
    dtype=st.sampled_from(DTYPES),
    part=st.sampled_from(PARTS),
)
def test_any_words_round_trip_and_decode_without_their_dtype(tensor: U16, dtype: KvDtype, part: Part) -> None:
    payload = KvFast(dtype).encode(tensor, part)
    assert np.array_equal(codec_by_id(3).decode(payload, shape_of(tensor), part), tensor)
    assert len(payload) <= 3 + tensor.nbytes


@settings(max_examples=60)
@given(
    n_seq=st.integers(1, 300),
    head_dim=st.integers(1, 19),
    exponent=st.integers(-30, 18),
    outliers=st.lists(st.integers(0, 0xFFFF), max_size=9),
    dtype=st.sampled_from(DTYPES),
    part=st.sampled_from(PARTS),
)
def test_tensors_of_any_size_and_scale_with_any_outliers_round_trip(
    n_seq: int, head_dim: int, exponent: int, outliers: list[int], dtype: KvDtype, part: Part
) -> None:
    values = np.random.default_rng(n_seq).normal(size=(n_seq, 2, head_dim)).clip(-3, 3) * 2.0 ** min(exponent, 14)
    tensor = rounded(values.astype(np.float32), dtype, "test")
    places = np.random.default_rng(0).integers(0, tensor.size, len(outliers))
    tensor.reshape(-1)[places] = outliers
    codec = KvFast(dtype)
    assert np.array_equal(codec.decode(codec.encode(tensor, part), shape_of(tensor), part), tensor)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_dtypes_are_coded_not_stored(dtype: KvDtype, part: Part) -> None:
    tensor = related_rows(128, dtype=dtype)
    payload = KvFast(dtype).encode(tensor, part)
    assert not payload[1] & RAW_FLAG
    assert len(payload) < (0.85 if dtype == "fp16" else 0.7) * tensor.nbytes
    assert np.array_equal(KvFast().decode(payload, shape_of(tensor), part), tensor)


@pytest.mark.parametrize("n_tokens", [32, 64, 128, 256])
def test_related_rows_take_fewer_bytes_than_gear_s(n_tokens: int) -> None:
    for part in PARTS:
        tensor = related_rows(n_tokens, part=part)
        assert len(KvFast().encode(tensor, part)) * 1.02 < len(GearV22().encode(tensor, part))


def test_a_row_that_equals_an_earlier_one_costs_two_bytes_at_most() -> None:
    tensor = related_rows(100)
    again = np.concatenate([tensor, tensor[10:60]])
    assert len(KvFast().encode(again, "v")) <= len(KvFast().encode(tensor, "v")) * 1.02 + 2 * 50


def test_words_of_coarse_steps_have_their_low_bits_in_a_zstd_frame() -> None:
    tensor = related_rows(96) & np.uint16(0xFFC0)
    payload = KvFast().encode(tensor, "v")
    assert payload[1] & LOW_FRAME_FLAG
    assert len(payload) < 0.6 * tensor.nbytes
    assert np.array_equal(KvFast().decode(payload, shape_of(tensor), "v"), tensor)
    length = 3 + 4 + int.from_bytes(payload[3:7], "little")
    for damaged in (payload[:5], payload[: length - 1], payload[:7] + b"\0" + payload[8:], payload[:length]):
        assert damaged_outcome(damaged, shape_of(tensor)) is None


def test_noise_is_stored_as_it_is() -> None:
    tensor = np.random.default_rng(0).integers(0, 0x10000, (40, 2, 16), dtype=np.uint16)
    payload = KvFast().encode(tensor, "k")
    assert payload[1] & RAW_FLAG
    assert len(payload) == 3 + tensor.nbytes


@pytest.mark.parametrize(("dtype", "part"), GOLDEN)
def test_a_payload_of_layout_1_decodes_for_ever(dtype: KvDtype, part: Part) -> None:
    payload = bytes.fromhex(GOLDEN[dtype, part])
    assert not payload[1] & RAW_FLAG
    assert np.array_equal(codec_by_id(3).decode(payload, (16, 1, 16), part), golden_tensor(dtype))


def test_the_tables_are_the_format_s() -> None:
    found = {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in tables()._asdict().items()}
    assert found == TABLE_HASHES


def test_every_table_shares_out_all_slots_and_every_symbol_has_a_code() -> None:
    built = tables()
    frequency, symbol = built.slots >> 20, built.slots >> 12 & 0xFF
    assert built.slots.shape == (CONTEXTS + 1, SLOTS)
    assert (frequency[CERTAIN] == SLOTS).all()
    for context in range(CONTEXTS):
        counts = np.bincount(symbol[context], minlength=256)
        assert counts[ESCAPE] > 0
        assert (counts[symbol[context]] == frequency[context]).all()
        coded = built.codes[context] & ESCAPED == 0
        assert np.array_equal(np.flatnonzero(coded), np.setdiff1d(np.flatnonzero(counts), [ESCAPE]))
        assert ((built.codes[context] & 0xFFFF)[coded] == counts[coded]).all()


def test_means_and_deviations_beyond_the_windows_are_escapes() -> None:
    tensor = related_rows(64, 1, 8)
    tensor[::9, 0, 3] = np.float16(60000).view(np.uint16)
    tensor[::5, 0, 5] = 1
    tensor[:, 0, 6] = np.linspace(-6e4, 6e4, 64).astype(np.float16).view(np.uint16)
    for part in PARTS:
        payload = KvFast().encode(tensor, part)
        assert not payload[1] & RAW_FLAG
        assert np.array_equal(KvFast().decode(payload, shape_of(tensor), part), tensor)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cut_or_lengthened_coded_payload_is_refused(dtype: KvDtype, part: Part) -> None:
    tensor = golden_tensor(dtype)
    payload = KvFast(dtype).encode(tensor, part)
    for damaged in (*(payload[:length] for length in range(len(payload))), payload + b"\0", payload + payload):
        assert damaged_outcome(damaged, shape_of(tensor)) is None
    for shape in ((15, 1, 16), (17, 1, 16), (16, 1, 15), (16, 1, 17), (2**30, 2**15, 2**15), (2**20, 1, 2**20)):
        assert damaged_outcome(payload, shape) is None


@pytest.mark.parametrize(("offset", "byte"), [(0, 0), (0, 2), (1, 32), (1, 0xFF), (2, 0x09), (2, 0x90)])
def test_a_damaged_header_is_named(offset: int, byte: int) -> None:
    payload = bytearray(KvFast().encode(related_rows(16), "k"))
    payload[offset] = byte
    with pytest.raises(CodecError, match="header: expected layout 1"):
        KvFast().decode(bytes(payload), (16, 2, 64), "k")


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 255)), min_size=1, max_size=6),
    dtype=st.sampled_from(DTYPES),
    part=st.sampled_from(PARTS),
    n_seq=st.integers(1, 40),
    n=st.integers(1, 40),
)
def test_a_damaged_payload_is_refused_or_gives_some_words(
    changes: list[tuple[int, int]], dtype: KvDtype, part: Part, n_seq: int, n: int
) -> None:
    payload = bytearray(KvFast(dtype).encode(golden_tensor(dtype), part))
    for place, byte in changes:
        payload[place % len(payload)] = byte
    damaged_outcome(bytes(payload), (16, 1, 16))
    damaged_outcome(bytes(payload), (n_seq, 1, n))


@settings(max_examples=150)
@given(noise=st.binary(max_size=400), flags=st.integers(0, 31), rice=st.integers(0, 0x88), n_seq=st.integers(1, 30), n=st.integers(1, 30))
def test_noise_is_refused_or_gives_some_words(noise: bytes, flags: int, rice: int, n_seq: int, n: int) -> None:
    damaged_outcome(bytes([1, flags, rice]) + noise, (n_seq, 1, n))


def test_a_reference_before_the_first_row_is_refused() -> None:
    first_row_copies = bytes([1, 0, 0, 0b00100]) + bytes(40)  # one channel takes two bits
    with pytest.raises(CodecError, match="references to earlier rows"):
        KvFast().decode(first_row_copies, (1, 1, 1), "v")


def test_another_dtype_is_refused_and_the_registry_passes_it_on() -> None:
    with pytest.raises(CodecError, match="expected fp16 or bf16, got 'fp32'"):
        KvFast("fp32")  # type: ignore[arg-type]
    tensor = related_rows(16, dtype="bf16")
    assert codec_by_name("kv_fast", dtype="bf16").encode(tensor, "k") == KvFast("bf16").encode(tensor, "k")
