"""Our codecs beside others on the same real KV: ratio, speed and time per block, front and deep layers apart.

    python benchmarks/codecs.py --svg docs/codecs.svg

Prefills the reference model with held-out text and cuts K (after RoPE) and V of every layer into blocks. All codecs take one layer's
blocks in turn, then the next layer's, on one thread; every decoded block is compared bit for bit. Peers need the extra ``codecs``. With
``--turn block`` they take turns at every block: each one then finds the caches full of the others. With ``--turn repeat`` a codec works on
a block three times and the last counts: everything it needs is at hand.

A block's bytes are its payload and 16 bytes of framing, for everyone alike. Time is CPU time of the process, so that neighbours cost
little. ``MB/s`` are raw bytes over the sum of each block's median time; ``us`` are the 50th and 99th percentile over blocks and repeats.
The bound is plain order-0 entropy: what ideal codes for the high and for the low bytes, made for each block alone and sent for nothing,
would need. Who looks at neighbours or repeats may pass it. ``kv_max, sequence`` codes a layer's K and V together, block after block, with
what the blocks before taught; a pair's time counts half for K and half for V.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import numpy as np
import numpy.typing as npt
from codec_peers import Coder, peers
from codec_picture import Point, draw

from h2o_gate_plugin.errors import CodecError, H2oGateError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.codec import U16, Codec, Part, Shape, codec_by_name, every_codec
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.max import KvMax
from h2o_gate_plugin.kv.planes import split_planes
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.timed_run import kv_shape

REFERENCE = Path(__file__).parents[1] / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
PARTS: tuple[Part, ...] = ("k", "v")
FRONT_LAYERS = 2
"""The contract's ``kv_lossless_front_n``."""
DEPTHS = ("front", "deep", "all")
FRAMING_BYTES = 16
GEAR = "gear_v22"
SEQUENCE = f"{KvMax.name}, sequence"
TUNED_K, TUNED_V = ("raw", "delta_seq"), ("raw",)
"""The predictors that win a block of real KV now and then; no other does."""
HEADER = (
    "codec", "layers", "ratio: K / V / both", "of the order-0 bound", "encode MB/s", "decode MB/s",
    "encode us, K: p50 / p99", "V", "decode us, K: p50 / p99", "V",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """``words``: u16 ``[n_seq, n_kv_head, head_dim]``; ``bound_bytes``: its order-0 entropy."""

    layer: int
    part: Part
    words: U16
    bound_bytes: float

    @property
    def shape(self) -> Shape:
        return (self.words.shape[0], self.words.shape[1], self.words.shape[2])


@dataclass
class Side:
    """One codec's results: bytes ``[n_block]``, seconds ``[n_repeat, n_block]``."""

    name: str
    coder: Coder
    own: bool
    packed_bytes: npt.NDArray[np.int64]
    encode_s: npt.NDArray[np.float64]
    decode_s: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """One codec on some of the blocks. The ``us`` are (p50, p99) of a block."""

    codec: str
    own: bool
    layers: str
    part: str
    ratio: float
    bound_ratio: float
    encode_mb_s: float
    decode_mb_s: float
    encode_us: tuple[float, float]
    decode_us: tuple[float, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-config", type=Path, default=REFERENCE)
    parser.add_argument("--prompt", type=int, default=1536, help="tokens to prefill")
    parser.add_argument("--block-tokens", type=int, default=128, help="tokens of a block; what is left of a layer is not measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turn", choices=("layer", "block", "repeat"), default="layer", help="what a codec works on in its turn")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--svg", type=Path, help="draw ratio against decode speed")
    args = parser.parse_args()
    if not 1 <= args.block_tokens <= args.prompt or args.repeats < 1:
        got = f"{args.prompt}, {args.block_tokens} and {args.repeats}"
        parser.error(f"expected --prompt >= --block-tokens >= 1 (tokens) and --repeats >= 1, got {got}")
    others, skipped = peers()
    print("".join(f"{line}\n" for line in skipped), end="", file=sys.stderr)
    try:
        with blas_threads(1):
            blocks = real_blocks(args.model_config, args.prompt, args.block_tokens)
            shape = (args.repeats, len(blocks))
            sides = [
                Side(name, coder, own, np.zeros(len(blocks), dtype=np.int64), np.zeros(shape), np.zeros(shape))
                for name, coder, own in (*own_codecs(), *((peer.name, peer, False) for peer in others))
            ]
            sequence = Side(SEQUENCE, KvMax(), True, np.zeros(len(blocks), dtype=np.int64), np.zeros(shape), np.zeros(shape))
            measure(sides, sequence, blocks, args.repeats, args.turn)
    except H2oGateError as err:
        print(f"codecs: {err}", file=sys.stderr)
        return 2
    readings = [read(side, blocks, depth, part) for side in (*sides, sequence) for depth in DEPTHS for part in (*PARTS, "both")]
    print("\n".join(table(readings)))
    if args.json:
        parameters = {"prompt_tokens": args.prompt, "block_tokens": args.block_tokens, "repeats": args.repeats}
        found = {**parameters, "framing_bytes": FRAMING_BYTES, "skipped": skipped, "readings": [asdict(reading) for reading in readings]}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.svg:
        draw([Point(r.codec, r.own, r.layers, r.ratio, r.bound_ratio, r.decode_mb_s) for r in readings if drawn(r)], args.svg)
    return 0


def own_codecs() -> Iterable[tuple[str, Codec, bool]]:
    """gear_v22 as the runtime makes it, then every registered codec as it is: gear_v22 then tries all of the contract's predictors."""
    yield f"{GEAR}, two predictors", codec_by_name(GearV22.name, TUNED_K, TUNED_V), True
    yield f"{GEAR}, runtime's default", codec_by_name(GearV22.name), True
    for codec in every_codec():
        yield f"{GEAR}, all predictors" if codec.name == GearV22.name else codec.name, codec, True


def real_blocks(model_config: Path, n_prompt: int, block_tokens: int) -> list[Block]:
    """K and V of every layer in whole blocks. Raises H2oGateError."""
    loaded = load(model_config, "text", 1)
    shape, blocks = kv_shape(loaded.model), list[Block]()
    with KvCache(shape, loaded.full_policy) as cache:
        prefill(loaded.model, loaded.prompts.prompt(n_prompt, 0).ids, cache)
        for layer in range(shape.n_layer):
            for part in PARTS:
                rows = cache.words(layer, part)
                for start in range(0, len(rows) - block_tokens + 1, block_tokens):
                    words = rows[start : start + block_tokens].copy()
                    blocks.append(Block(layer, part, words, sum(order0_bytes(plane) for plane in split_planes(words))))
    return blocks


def order0_bytes(plane: npt.NDArray[np.uint8]) -> float:
    counts = np.bincount(plane.reshape(-1), minlength=256).astype(np.float64)
    seen = counts[counts > 0]
    return float(-(seen * np.log2(seen / plane.size)).sum() / 8)


def measure(sides: Sequence[Side], sequence: Side, blocks: Sequence[Block], n_repeat: int, turn: str) -> None:
    """Every codec on one turn's blocks, in an order drawn for each turn: who runs before changes what the caches hold.

    ``sequence``: kv_max over each layer's blocks, after the others of a repeat. Raises CodecError where other bits come back.
    """
    random = np.random.default_rng(0)
    turns: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        turns.setdefault(block.layer if turn == "layer" else index, []).append(index)
    for repeat in range(-1, n_repeat):  # the first compiles and warms up
        for indices in turns.values():
            for number in random.permutation(len(sides)):
                for index in indices * (3 if turn == "repeat" else 1):
                    measure_block(sides[number], index, blocks[index], repeat)
        measure_sequences(sequence, blocks, repeat)


def measure_block(side: Side, index: int, block: Block, repeat: int) -> None:
    started = process_time()
    payload = side.coder.encode(block.words, block.part)
    encoded = process_time()
    decoded = side.coder.decode(payload, block.shape, block.part)
    ended = process_time()
    if not np.array_equal(decoded, block.words):
        raise CodecError(f"benchmark: {side.name}: expected the packed bits back, got others; the codec is not lossless")
    side.packed_bytes[index] = len(payload) + FRAMING_BYTES
    if repeat >= 0:
        side.encode_s[repeat, index], side.decode_s[repeat, index] = encoded - started, ended - encoded


def measure_sequences(side: Side, blocks: Sequence[Block], repeat: int) -> None:
    for layer in range(1 + max(block.layer for block in blocks)):
        k_indices, v_indices = ([i for i, block in enumerate(blocks) if (block.layer, block.part) == (layer, part)] for part in PARTS)
        encoder, decoder = KvMax().encoder(), KvMax().decoder()
        for k_index, v_index in zip(k_indices, v_indices, strict=True):
            pair = blocks[k_index].words, blocks[v_index].words
            started = process_time()
            payloads = encoder.encode(*pair)
            encoded = process_time()
            decoded = decoder.decode(*payloads, blocks[k_index].shape)
            ended = process_time()
            if not all(np.array_equal(one, other) for one, other in zip(decoded, pair, strict=True)):
                raise CodecError(f"benchmark: {side.name}: expected the packed bits back, got others; the codec is not lossless")
            for index, payload in zip((k_index, v_index), payloads, strict=True):
                side.packed_bytes[index] = len(payload) + FRAMING_BYTES
                if repeat >= 0:
                    side.encode_s[repeat, index], side.decode_s[repeat, index] = (encoded - started) / 2, (ended - encoded) / 2


def read(side: Side, blocks: Sequence[Block], depth: str, part: str) -> Reading:
    chosen = [
        index
        for index, block in enumerate(blocks)
        if part in (block.part, "both") and depth in ("all", "front" if block.layer < FRONT_LAYERS else "deep")
    ]
    raw_bytes = sum(blocks[index].words.nbytes for index in chosen)
    encode_s, decode_s = side.encode_s[:, chosen], side.decode_s[:, chosen]
    return Reading(
        codec=side.name,
        own=side.own,
        layers=depth,
        part=part,
        ratio=raw_bytes / int(side.packed_bytes[chosen].sum()),
        bound_ratio=raw_bytes / sum(blocks[index].bound_bytes for index in chosen),
        encode_mb_s=raw_bytes / float(np.median(encode_s, axis=0).sum()) / 1e6,
        decode_mb_s=raw_bytes / float(np.median(decode_s, axis=0).sum()) / 1e6,
        encode_us=percentiles(encode_s),
        decode_us=percentiles(decode_s),
    )


def drawn(reading: Reading) -> bool:
    """K and V together; gear_v22 once, as its settings differ in the time to encode alone."""
    return reading.part == "both" and (not reading.codec.startswith(GEAR) or reading.codec == f"{GEAR}, two predictors")


def percentiles(seconds: npt.NDArray[np.float64]) -> tuple[float, float]:
    half, most = np.percentile(seconds, (50, 99))
    return float(half * 1e6), float(most * 1e6)


def table(readings: Sequence[Reading]) -> list[str]:
    """A line per codec and depth; ``readings`` in the order K, V, both of each."""
    lines = [f"| {' | '.join(HEADER)} |", f"|---|---|{'---:|' * (len(HEADER) - 2)}"]
    for at in range(0, len(readings), 3):
        keys, values, both = readings[at : at + 3]
        cells = (
            both.codec,
            both.layers,
            f"{keys.ratio:.3f} / {values.ratio:.3f} / {both.ratio:.3f}",
            f"{both.ratio / both.bound_ratio:.1%}",
            f"{both.encode_mb_s:,.0f}",
            f"{both.decode_mb_s:,.0f}",
            *(f"{half:,.0f} / {most:,.0f}" for half, most in (keys.encode_us, values.encode_us, keys.decode_us, values.decode_us)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
