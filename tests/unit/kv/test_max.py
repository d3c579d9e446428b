"""Codec ``kv_max``: sequences chunk after chunk, what it buys, that both sides stay in step, and the bits of its tables."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.max import MAX_HEAD_DIM, KvMax
from h2o_gate_plugin.kv.max_model import Rope
from h2o_gate_plugin.kv.max_tables import cdf_table, odds_table, phase_steps, turn_table
from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.kv.rope_guess import guess_rope

F32 = npt.NDArray[np.float32]


def fp16(values: npt.NDArray[np.floating]) -> U16:
    return values.astype(np.float16).view(np.uint16)


def rotated(values: npt.NDArray[np.float64], theta: float, interleaved: bool = False) -> npt.NDArray[np.float64]:
    """RoPE in its plain form, [n_seq, n_head, d]."""
    half = values.shape[2] // 2
    angle = np.arange(len(values))[:, None, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = (values[..., 0::2], values[..., 1::2]) if interleaved else (values[..., :half], values[..., half:])
    out = np.empty_like(values)
    new = a * cos - b * sin, b * cos + a * sin
    if interleaved:
        out[..., 0::2], out[..., 1::2] = new
    else:
        out[..., :half], out[..., half:] = new
    return out


def mixed_kv(n_seq: int, n_head: int, head_dim: int, seed: int = 0, theta: float | None = 10_000.0) -> tuple[U16, U16]:
    """K and V as linear functions of one hidden vector of fewer dimensions than both have: what projections of a transformer are."""
    rng = np.random.default_rng(seed)
    width = n_head * head_dim
    hidden = rng.normal(size=(n_seq, width)) + rng.normal(size=width)
    keys = (hidden @ rng.normal(size=(width, width)) / width**0.5).reshape(n_seq, n_head, head_dim)
    values = (hidden @ rng.normal(size=(width, width)) / width**0.5).reshape(n_seq, n_head, head_dim)
    return fp16(keys if theta is None else rotated(keys, theta)), fp16(values)


def coded_bytes(codec: KvMax, keys: U16, values: U16, chunk: int) -> tuple[int, int]:
    """Payload bytes of K and of V, each chunk decoded and compared."""
    encoder, decoder = codec.encoder(), codec.decoder()
    sizes = np.zeros(2, dtype=int)
    for start in range(0, len(keys), chunk):
        parts = keys[start : start + chunk], values[start : start + chunk]
        payloads = encoder.encode(*parts)
        shape = parts[0].shape
        back = decoder.decode(payloads[0], payloads[1], (shape[0], shape[1], shape[2]))
        assert all(np.array_equal(one, other) for one, other in zip(parts, back, strict=True))
        sizes += [len(payload) for payload in payloads]
    return int(sizes[0]), int(sizes[1])


@pytest.mark.parametrize("chunk", [1, 7, 96, 200])
@pytest.mark.parametrize("theta", [None, 10_000.0])
def test_a_sequence_comes_back_whatever_the_chunks(chunk: int, theta: float | None) -> None:
    coded_bytes(KvMax(), *mixed_kv(200, 2, 8, theta=theta), chunk)


def test_heads_beyond_a_group_and_odd_heads_come_back() -> None:
    coded_bytes(KvMax(), *mixed_kv(70, 5, 64), 40)
    coded_bytes(KvMax(), *mixed_kv(70, 3, 7, theta=None), 40)
    coded_bytes(KvMax("bf16"), *mixed_kv(70, 2, 16), 40)


def test_v_is_predicted_from_k_and_from_earlier_tokens() -> None:
    """V is a function of what K is a function of: known K leaves little of it. gear sees none of that."""
    keys, values = mixed_kv(640, 1, 32)
    _, v_bytes = coded_bytes(KvMax(), keys, values, 128)
    alone = len(KvMax().encode(values, "v"))
    gear = len(GearV22().encode(values, "v"))
    assert v_bytes < 0.8 * alone < 0.8 * gear


def test_undoing_the_rotation_pays() -> None:
    keys, _ = mixed_kv(512, 1, 32)
    assert len(KvMax().encode(keys, "k")) < 0.97 * len(KvMax(rope="off").encode(keys, "k"))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1_000_000.0])
def test_the_rotation_is_found(theta: float, interleaved: bool) -> None:
    rng = np.random.default_rng(2)
    keys = rng.normal(size=(192, 2, 32)) * 0.5 + rng.normal(size=(2, 32))
    assert guess_rope(fp16(rotated(keys, theta, interleaved)), "fp16") == Rope(theta, interleaved)
    assert guess_rope(fp16(keys), "fp16") is None
    assert guess_rope(fp16(keys[:8]), "fp16") is None


def test_a_token_that_comes_again_costs_next_to_nothing() -> None:
    """As in layer 0: V depends on the token alone, K on token and position."""
    rng = np.random.default_rng(4)
    vocabulary = rng.normal(size=(2, 20, 1, 64))
    tokens = rng.integers(0, 20, 400)
    keys, values = fp16(rotated(vocabulary[0, tokens], 10_000.0)), fp16(vocabulary[1, tokens])
    k_bytes, v_bytes = coded_bytes(KvMax(), keys, values, 100)
    assert v_bytes < values.nbytes / 10
    assert k_bytes < keys.nbytes / 3
    coded_bytes(KvMax(), keys, values, 200)  # of the second chunk V's stream holds nothing


def test_words_that_no_prediction_fits_are_stored_as_they_are_and_the_sequence_goes_on() -> None:
    keys, values = mixed_kv(96, 1, 16)
    noise = np.random.default_rng(5).integers(0, 0x10000, (32, 1, 16), dtype=np.uint16)
    encoder, decoder = KvMax().encoder(), KvMax().decoder()
    for k, v in ((keys[:32], values[:32]), (noise, noise[::-1]), (keys[32:], values[32:])):
        payloads = encoder.encode(k, v)
        assert all(len(payload) <= k.nbytes + 12 for payload in payloads)
        back = decoder.decode(*payloads, (len(k), 1, 16))
        assert np.array_equal(back[0], k)
        assert np.array_equal(back[1], v)


def test_heads_too_wide_to_model_are_stored() -> None:
    wide = fp16(np.random.default_rng(6).normal(size=(3, 1, MAX_HEAD_DIM + 1)))
    payload = KvMax().encode(wide, "k")
    assert len(payload) == wide.nbytes + 12
    assert np.array_equal(KvMax().decode(payload, (3, 1, MAX_HEAD_DIM + 1), "k"), wide)


def test_a_chunk_out_of_turn_is_refused() -> None:
    keys, values = mixed_kv(96, 2, 8)
    encoder = KvMax().encoder()
    chunks = [encoder.encode(keys[i : i + 32], values[i : i + 32]) for i in (0, 32, 64)]
    shape = (32, 2, 8)
    with pytest.raises(CodecError, match="expected one after 0 tokens"):
        KvMax().decoder().decode(*chunks[1], shape)
    decoder = KvMax().decoder()
    decoder.decode(*chunks[0], shape)
    with pytest.raises(CodecError, match="expected one after 32 tokens"):
        decoder.decode(*chunks[2], shape)
    other = KvMax().encoder().encode(keys[:32], values[::-1][:32])
    stranger = KvMax().decoder()
    stranger.decode(*other, shape)
    with pytest.raises(CodecError, match="in order"):
        stranger.decode(*chunks[1], shape)


def test_k_of_one_chunk_and_v_of_another_are_refused() -> None:
    keys, values = mixed_kv(64, 2, 8)
    encoder = KvMax().encoder()
    first, second = encoder.encode(keys[:32], values[:32]), encoder.encode(keys[32:], values[32:])
    with pytest.raises(CodecError, match="mixed up"):
        KvMax().decoder().decode(first[0], second[1], (32, 2, 8))
    with pytest.raises(CodecError, match="mixed up"):
        KvMax().decoder().decode(first[1], first[0], (32, 2, 8))
    with pytest.raises(CodecError, match="mixed up"):
        KvMax().decode(KvMax().encode(keys, "k"), (64, 2, 8), "v")


def test_tensors_of_two_shapes_are_refused() -> None:
    keys, values = mixed_kv(32, 2, 8)
    with pytest.raises(CodecError, match="one shape"):
        KvMax().encoder().encode(keys, values[:31])
    encoder = KvMax().encoder()
    encoder.encode(keys, values)
    with pytest.raises(CodecError, match="begin another sequence"):
        encoder.encode(keys[:, :1], values[:, :1])


@settings(max_examples=25)
@given(data=st.data())
def test_any_damage_to_a_sequence_is_a_codec_error_or_another_tensor_of_the_shape(data: st.DataObject) -> None:
    keys, values = mixed_kv(40, 1, 8)
    payloads = [bytearray(payload) for payload in KvMax().encoder().encode(keys, values)]
    for _ in range(data.draw(st.integers(1, 4))):
        payload = payloads[data.draw(st.integers(0, 1))]
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = KvMax().decoder().decode(bytes(payloads[0]), bytes(payloads[1]), (40, 1, 8))
    except CodecError:
        return
    assert [tensor.shape for tensor in back] == [(40, 1, 8)] * 2


def test_the_tables_are_what_the_mathematics_says() -> None:
    cdf, odds = cdf_table(), odds_table()
    assert (len(cdf), cdf[0], cdf[512], cdf[-1]) == (1025, 0, 1 << 29, 1 << 30)
    assert (np.diff(cdf) >= 0).all()
    assert np.array_equal(cdf + cdf[::-1], np.full(1025, 1 << 30))
    octaves = np.arange(-192, 193) / 16
    assert np.abs(odds / 65536 - 1 / (1 + 2.0**-octaves)).max() < 2**-15
    angle = 2 * np.pi * np.arange(4097) / 4096
    for table, function in zip(turn_table(), (np.cos, np.sin), strict=True):
        assert np.abs(table / 2**24 - function(angle)).max() < 2**-24
    assert np.abs(phase_steps(10_000.0, 64) / 2**48 * 2 * np.pi - 10_000.0 ** (-np.arange(32) / 32)).max() < 1e-12


def test_the_tables_are_the_same_bits_everywhere() -> None:
    """They are part of the format: a change makes old payloads unreadable."""
    tables = (cdf_table(), odds_table(), *turn_table(), phase_steps(10_000.0, 64), phase_steps(500_000.0, 128))
    digest = hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in tables)).hexdigest()
    assert digest == TABLES


def golden_kv() -> tuple[U16, U16]:
    """40 tokens made of integers alone."""
    at = np.arange(40 * 2 * 4, dtype=np.int64).reshape(40, 2, 4)
    keys = (0x3C00 + at * at * 37 % 0x300 + (at * 7919 % 2) * 0x8000).astype(np.uint16)
    return keys, (0x3A00 + at * 53 % 0x500 ^ keys >> 3).astype(np.uint16)


def test_a_stored_sequence_still_decodes_and_is_still_coded_alike() -> None:
    keys, values = golden_kv()
    encoder, decoder = KvMax(rope=Rope(10_000.0, False)).encoder(), KvMax().decoder()
    for start, (k_golden, v_golden) in zip((0, 24), GOLDEN, strict=True):
        stop = 24 if start == 0 else 40
        back = decoder.decode(bytes.fromhex(k_golden), bytes.fromhex(v_golden), (stop - start, 2, 4))
        assert np.array_equal(back[0], keys[start:stop])
        assert np.array_equal(back[1], values[start:stop])
        assert [payload.hex() for payload in encoder.encode(keys[start:stop], values[start:stop])] == [k_golden, v_golden]


PAYLOAD_DIGEST = """
import hashlib, sys
sys.path.insert(0, {folder!r})
import numpy as np
from test_max import coded_digest
print(coded_digest())
"""


def coded_digest() -> str:
    encoder = KvMax().encoder()
    keys, values = golden_kv()
    chunks = [encoder.encode(np.tile(keys, (4, 1, 1))[i : i + 64], np.tile(values, (4, 1, 1))[i : i + 64]) for i in (0, 64, 96)]
    return hashlib.sha256(b"".join(payload for chunk in chunks for payload in chunk)).hexdigest()


def test_another_process_with_other_threads_and_less_optimised_kernels_writes_the_same_bytes(tmp_path: Path) -> None:
    env = {"OPENBLAS_NUM_THREADS": "4", "NUMBA_OPT": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    script = PAYLOAD_DIGEST.format(folder=str(Path(__file__).parent))
    argv = [sys.executable, "-c", script]
    run = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.strip() == coded_digest()


TABLES = "3afd309485ea0860ca4728b4659a7d59efcc1b933e08ff32bca013432a303090"

GOLDEN = (
    (
        (
            "011100000000000000000000000000000088c340110028b52ffd20084100000001000101000100c87903b1bac2c1128e7070a3f5c98b8cac"
            "b43f3ddb4e266b215a6268830351518996664b01d4417dfefa233730aaecee51d53f7d228c02dbba832de3af100959058ca84abaf0cd41f4"
            "3811752868222345ebc22923ce137ed5316e7e539fee01a5298739b6b259663e0de42d8f6f7825f836283bdecc0e8e37ed905906582c1b17"
            "f26b85db4e994174112a7b8a641fc2d944117fec555ed615341cf68d378a955ecd1fb7a3112cee3bbd84ddc2ba0a97da6247a2bd7e81fdcb"
            "ad485ac4689699c9220c4fb820f905234e342aa93d1f77c36555cdfa988231ad7b0beb1ca5ef1196a162bac4b01a3728b55f817c360aa7a3"
            "8d8935c2ef55f187e76d1e3b34851245bd5a01680547aedfc6a2727db304de367b61fe389d800a9a240132534dfefe69975db697900232f6"
            "6e91f9"
        ),
        (
            "013100000000000000000000000000000088c340110028b52ffd200841000000fc00fc00fc00fc1c4ca4b767080000c5afa41772537b1f3a"
            "156833d7b94ea916b561bdbb084595c5bfc1cd5fa996f157057651166213937191ef06ea7501cfda2f7d552109759da2b41c152f937c6138"
            "e96521da1397b556bb21461dec28fe624be201819ce6118f0cffc900bafc15b315ffe926d209f26464fc751b3126aeb41611a290c5e6c1ad"
            "bdf5815db11246de2eee5d9c4a1656116c1fb2f35cbff96f32e7edd940f9b1550fdff1e7f0f199a5a8ec796658ffd1bf06e1fd2e0be6d5b9"
            "9e2c56b41127d654553a66bbe6fe6dca504382f76503f62f4d2cce858efcbdf0c2fde907a9346a6038225a425a22e6a2ff207ee614e23916"
            "693a8afa75fb85371bf26d5099bfc50d41d40104d7fa9115d54bda44a9fbd5c02a276e3357fd6d"
        ),
    ),
    (
        (
            "011100001800000040e4d20be525c6856dce210076cc89c49b62e4d530db4d0e3b6882254d41fc05c8b64e42442b760e372d02b6b88a5f3a"
            "377194ba1ea7ff0d4dab416e20ec701a91a70c36660f6d765a60b48e522d551233b2483992ff159fc27cf7d9056076614dbe3782cccbfa21"
            "ccaa7bb5b46d818ca53225a6725bd846ae147ccc206a88dfd301a2c0f7a5f01bc99bf032ad15a538225d7ea2895bbdea55f53c83dffe1476"
            "3de0562e590bf795b5f64393fa10fc92b0eff7f36e9518ac9567e4b31f492f260967b516e670517e"
        ),
        (
            "013100001800000040e4d20b26acfb4dde000000e6395aec796a17366bccf64909c0d915e05f3bfaa2d110820df1153e6e6c1d2e0c9a25b2"
            "317b3682814b756a318d2d06b069007e5d74eeb9f82e6f4d836d6671dfda8c5d6ae7fb9dc7b6537ee153f7bdd63a74ca3bdafc51d2435749"
            "cfb7afeacfe4bf547be0deebd3ef13b4079dd780b4e1ec50b2c292d8c07a26c53e5bd6a20a45e1936f0996dc41b666e5a9bd00da40bcdd95"
            "8adbd2ea65b8217a227ef4ce"
        ),
    ),
)
