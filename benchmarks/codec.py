"""What the runtime codec takes to pack and to unpack one block of real KV, and how much of it is zstd's own work.

    python benchmarks/codec.py --repeats 9

Prefills the model with held-out text, cuts blocks of 32 to 256 tokens from every layer, and packs and unpacks them one after the other
on one thread, the block sizes in turn. Prints medians over blocks and repeats: µs per block, GB/s of raw KV, zstd's share of the time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from h2o_gate_plugin.errors import CodecError, H2oGateError
from h2o_gate_plugin.kv.cache import KvCache
from h2o_gate_plugin.kv.codec import U16, Codec, Part, codec_by_name
from h2o_gate_plugin.kv.frame import pack, unpack
from h2o_gate_plugin.kv.gear_v22 import GearV22
from h2o_gate_plugin.kv.planes import U8
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames
from h2o_gate_plugin.kv_options import KvDtype
from h2o_gate_plugin.runtime.measure import blas_threads, load
from h2o_gate_plugin.runtime.model import prefill
from h2o_gate_plugin.runtime.timed_run import kv_shape

REFERENCE = Path(__file__).parents[1] / "h2o_gate_plugin" / "models" / "reference" / "bench_config.json"
BLOCK_TOKENS = (32, 64, 128, 256)
PARTS: tuple[Part, ...] = ("k", "v")
ZSTD_LEVEL = 3


class TimedZstd(ZstdFrames):
    """Adds up the seconds inside it."""

    pack_s = unpack_s = 0.0

    def compress(self, payload: U8) -> bytes:
        started = perf_counter()
        frame = super().compress(payload)
        self.pack_s += perf_counter() - started
        return frame

    def decompress(self, frame: bytes | memoryview, n_bytes: int, place: str) -> bytes:
        started = perf_counter()
        decoded = super().decompress(frame, n_bytes, place)
        self.unpack_s += perf_counter() - started
        return decoded


@dataclass
class Samples:
    """Seconds per block, and zstd's share of them in a second round trip with a stopwatch in the codec."""

    seconds: list[float] = field(default_factory=list)
    zstd_share: list[float] = field(default_factory=list)

    def columns(self, raw_bytes: int) -> str:
        seconds = statistics.median(self.seconds)
        return f"{seconds * 1e6:>12.1f}{raw_bytes / seconds / 1e9:>8.2f}{statistics.median(self.zstd_share):>8.0%}"


@dataclass
class Case:
    """All blocks of one part and size."""

    part: Part
    n_tokens: int
    blocks: list[U16]
    dtype: KvDtype
    frame_bytes: int = 0
    packing: Samples = field(default_factory=Samples)
    unpacking: Samples = field(default_factory=Samples)

    @property
    def line(self) -> str:
        raw_bytes = self.blocks[0].nbytes
        ratio = raw_bytes * len(self.blocks) / self.frame_bytes
        return f"{self.part:<5}{self.n_tokens:>7}{ratio:>8.3f}{self.packing.columns(raw_bytes)}{self.unpacking.columns(raw_bytes)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-config", type=Path, default=REFERENCE)
    parser.add_argument("--prompt", type=int, default=1024, help="tokens to prefill, at least 256")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    if args.prompt < max(BLOCK_TOKENS) or args.repeats < 1:
        parser.error(f"expected --prompt >= {max(BLOCK_TOKENS)} and --repeats >= 1, got {args.prompt} and {args.repeats}")
    try:
        with blas_threads(1):
            codec, watched, cases = prepared(args.model_config, args.prompt)
            for repeat in range(args.repeats + 1):
                for case in cases:
                    measure(case, codec, watched, keep=repeat > 0)  # the first compiles and warms up
    except H2oGateError as err:
        print(f"codec: {err}", file=sys.stderr)
        return 2
    columns = f"{'GB/s':>8}{'zstd':>8}"
    print(f"{'part':<5}{'tokens':>7}{'ratio':>8}{'pack us':>12}{columns}{'unpack us':>12}{columns}")
    print("\n".join(case.line for case in cases))
    return 0


def prepared(model_config: Path, n_prompt: int) -> tuple[Codec, GearV22, list[Case]]:
    """The codec of the model's bench config, as it is and with a `TimedZstd` in it, and blocks of real KV. Raises H2oGateError."""
    loaded = load(model_config, "text", 1)
    policy, shape = loaded.policy, kv_shape(loaded.model)
    codec, watched = (codec_by_name(policy.codec, policy.k_predictors, policy.v_predictors) for _ in range(2))
    if not isinstance(watched, GearV22):
        raise CodecError(f"{model_config}: codec: expected {GearV22.name}, got {policy.codec}; this benchmark times no other")
    watched._zstd = TimedZstd(ZSTD_LEVEL)
    with KvCache(shape, loaded.full_policy) as cache:
        prefill(loaded.model, loaded.prompts.prompt(n_prompt, 0).ids, cache)
        words = {part: [cache.words(layer, part) for layer in range(shape.n_layer)] for part in PARTS}
    cases = [Case(part, n, [block for rows in words[part] for block in cut(rows, n)], shape.dtype) for n in BLOCK_TOKENS for part in PARTS]
    return codec, watched, cases


def cut(rows: U16, n_tokens: int) -> Iterator[U16]:
    """One block from every 256 tokens of a layer: as many blocks of each size."""
    for start in range(0, len(rows) - max(BLOCK_TOKENS) + 1, max(BLOCK_TOKENS)):
        yield rows[start : start + n_tokens].copy()


def measure(case: Case, codec: Codec, watched: GearV22, keep: bool) -> None:
    """Pack and unpack every block with both codecs. Raises CodecError where other bits come back."""
    case.frame_bytes = 0
    for block in case.blocks:
        pack_s, unpack_s, n_bytes = round_trip(case, codec, block)
        zstd = watched._zstd
        zstd.pack_s = zstd.unpack_s = 0.0
        watched_pack_s, watched_unpack_s, _ = round_trip(case, watched, block)
        case.frame_bytes += n_bytes
        if keep:
            case.packing.seconds.append(pack_s)
            case.packing.zstd_share.append(zstd.pack_s / watched_pack_s)
            case.unpacking.seconds.append(unpack_s)
            case.unpacking.zstd_share.append(zstd.unpack_s / watched_unpack_s)


def round_trip(case: Case, codec: Codec, block: U16) -> tuple[float, float, int]:
    """Seconds to pack, seconds to unpack, bytes of the frame."""
    started = perf_counter()
    frame = pack(codec, block, 0, case.part, 0, case.dtype)
    packed = perf_counter()
    unpacked = unpack(frame, codec)
    ended = perf_counter()
    if not np.array_equal(unpacked.tensor, block):
        raise CodecError(f"benchmark: {case.part}: expected the packed bits back, got others; the codec is broken")
    return packed - started, ended - packed, len(frame)


if __name__ == "__main__":
    sys.exit(main())
