"""Coverage-guided fuzzing of frames and of every registered codec (atheris, extra ``fuzz``).

    make fuzz FUZZ_SECONDS=600
    python tools/fuzz_codecs.py --input build/fuzz/crash-…      # one kept input again

An input is a target's number and what that target reads. A finding is any exception but CodecError, any wrong word, half a
minute for an input, or 3 GiB. `make fuzz` turns numba's bounds checks on, so that an index out of bounds is an exception too.
"""

from __future__ import annotations

import argparse
import inspect
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.codec import U16, Codec, Part, Shape, every_codec
from h2o_gate_plugin.kv.frame import HEADER_BYTES, LAYOUTS, UnpackedFrame, pack, read_header, unpack

BUILD = Path(__file__).parents[1] / "build" / "fuzz"
CODECS = every_codec()
PARTS: tuple[Part, ...] = ("k", "v")
RSS_MIB, SECONDS_PER_INPUT = 3072, 30
DECODE = struct.Struct("<BBIII")
"""Codec, part, shape; the payload follows."""
TENSOR = struct.Struct("<BBBBBB")
"""Codec, part, n_seq, n_kv_head, head_dim, kind of content; words follow, or edits of `EDIT`."""
EDIT = struct.Struct("<HBB")
"""Position, kind, value."""


class WrongWordsError(Exception):
    """Other words than were encoded, or an array of another shape."""


def header(data: bytes) -> None:
    """The frame header reader on the bytes as they are, and with the header's checksum made right."""
    for frame in (data, sealed(data)):
        try:
            read_header(frame)
        except CodecError:
            continue


def frame(data: bytes) -> None:
    """`unpack` of the bytes, sealed."""
    for damaged in (data, sealed(data)):
        try:
            unpacked = unpack(damaged)
        except CodecError:
            continue
        if unpacked.tensor.dtype != np.uint16 or unpacked.tensor.ndim != 3:
            raise WrongWordsError(f"unpack gave {unpacked.tensor.dtype} {unpacked.tensor.shape}")


def sealed(data: bytes) -> bytes:
    """The header's own length of the payload and its checksum made right, so that what comes after them is reached."""
    layout = LAYOUTS.get(data[4]) if len(data) > 4 else None
    if layout is None or len(data) < layout.header_bytes:
        return data
    fields = bytearray(data[: layout.packing.size])
    struct.pack_into("<I", fields, 32, len(data) - layout.header_bytes)
    return bytes(fields) + struct.pack("<I", zlib.crc32(fields)) + data[layout.header_bytes :]


def payload(data: bytes) -> None:
    """`Codec.decode` of any bytes under any shape."""
    if len(data) < DECODE.size:
        return
    number, part, *sizes = DECODE.unpack_from(data)
    decode(CODECS[number % len(CODECS)], data[DECODE.size :], (sizes[0], sizes[1], sizes[2]), PARTS[part & 1])


def decode(codec: Codec, data: bytes, shape: Shape, part: Part) -> None:
    try:
        tensor = codec.decode(data, shape, part)
    except CodecError:
        return
    if tensor.dtype != np.uint16 or tensor.shape != shape:
        raise WrongWordsError(f"{codec.name} gave {tensor.dtype} {tensor.shape} for {shape}")


def round_trip(data: bytes) -> None:
    """Any words come back."""
    if len(data) < TENSOR.size:
        return
    codec, part, tensor = tensor_of(data)
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    if not np.array_equal(codec.decode(codec.encode(tensor, part), shape, part), tensor):
        raise WrongWordsError(f"{codec.name} gave other words than {tensor!r}")


def tensor_of(data: bytes) -> tuple[Codec, Part, U16]:
    number, part, n_seq, n_kv_head, head_dim, kind = TENSOR.unpack_from(data)
    shape = (n_seq, n_kv_head % 4, head_dim % 70)
    size, rest = int(np.prod(shape)), data[TENSOR.size :]
    if kind == 0:
        words = np.resize(np.frombuffer(rest[: len(rest) // 2 * 2], dtype=np.uint16), size) if len(rest) > 1 else np.zeros(size, np.uint16)
    elif kind == 1:
        words = np.full(size, 0x3C00, dtype=np.uint16)
    else:
        random = np.random.default_rng(kind)
        words = random.normal(scale=0.05, size=size).cumsum().astype(np.float16).view(np.uint16)
    return CODECS[number % len(CODECS)], PARTS[part & 1], words.reshape(shape)


def mutation(data: bytes) -> None:
    """An encoded tensor with a few bytes changed, cut or repeated: bare, and in its frame."""
    if len(data) < TENSOR.size:
        return
    codec, part, tensor = tensor_of(data[: TENSOR.size - 1] + bytes([max(1, data[TENSOR.size - 1])]))
    whole = pack(codec, tensor, 1, part, 5)
    packed, damaged = UnpackedFrame(tensor, 1, part, 5, "fp16"), bytearray(whole)
    for at in range(TENSOR.size, len(data) - EDIT.size + 1, EDIT.size):
        edit(damaged, *EDIT.unpack_from(data, at))
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    decode(codec, bytes(damaged[HEADER_BYTES:]), shape, part)
    try:
        unpacked = unpack(sealed(bytes(damaged)))
    except CodecError:
        return
    if unpacked[1:] != packed[1:] or not np.array_equal(unpacked.tensor, tensor):
        raise WrongWordsError(f"{codec.name}: a damaged frame gave other words than were packed")


def edit(data: bytearray, position: int, kind: int, value: int) -> None:
    """Within the payload: set, flip, add, cut, insert, or repeat."""
    if len(data) <= HEADER_BYTES:
        return
    at = HEADER_BYTES + position % (len(data) - HEADER_BYTES)
    if kind % 6 == 0:
        data[at] = value
    elif kind % 6 == 1:
        data[at] ^= 1 << (value & 7)
    elif kind % 6 == 2:
        data[at] = (data[at] + value) & 0xFF
    elif kind % 6 == 3:
        del data[at : at + 1 + value]
    elif kind % 6 == 4:
        data.insert(at, value)
    else:
        data[at:at] = data[at : at + 1 + value]


def other_shape(data: bytes) -> None:
    """A whole payload under another shape: coverage alone seldom leads from one to a dimension of 2^31."""
    if len(data) < TENSOR.size + 3:
        return
    codec, part, tensor = tensor_of(data[: TENSOR.size])
    sizes = [tensor.shape[axis] if pick % 12 >= len(SIZES) else SIZES[pick % 12] for axis, pick in enumerate(data[-3:])]
    decode(codec, codec.encode(tensor, part), (sizes[0], sizes[1], sizes[2]), part)


SIZES = (0, 1, 2, 2**16, 2**20, 2**31 - 1, 2**32 - 1)
TARGETS: tuple[Callable[[bytes], None], ...] = (header, frame, payload, round_trip, mutation, other_shape)
TRIED = memoryview(mmap.mmap(-1, 8 * len(TARGETS))).cast("Q")
"""Inputs of each target, in memory that outlives the fuzzer's process: libFuzzer ends it without coming back."""


def one_input(data: bytes) -> None:
    if data:
        number = data[0] % len(TARGETS)
        TRIED[number] += 1
        TARGETS[number](data[1:])


def seeds() -> Iterator[bytes]:
    """A whole input of every target for every codec, small and of a real block's size."""
    for number, codec in enumerate(CODECS):
        for part, name in enumerate(PARTS):
            for n_seq, n_kv_head, head_dim, kind in ((0, 1, 4, 1), (1, 1, 1, 2), (12, 2, 6, 3), (70, 1, 9, 1), (128, 2, 64, 4)):
                settings = TENSOR.pack(number, part, n_seq, n_kv_head, head_dim, kind)
                _, _, tensor = tensor_of(settings)
                whole = pack(codec, tensor, 1, name, 5)
                yield b"\x00" + whole
                yield b"\x01" + whole
                yield b"\x02" + DECODE.pack(number, part, n_seq, n_kv_head, head_dim) + whole[HEADER_BYTES:]
                yield b"\x03" + settings
                yield b"\x04" + settings + EDIT.pack(9, 1, 3)
                yield b"\x05" + settings + b"\x08\x08\x08"


def instrumented(modules: list[ModuleType], instrument: Callable[[FunctionType], object]) -> int:
    """Let the fuzzer see the branches of the modules' plain functions and methods; compiled kernels are none. Returns how many."""
    names = {module.__name__ for module in modules}
    found: dict[int, FunctionType] = {}
    for module in modules:
        for thing in vars(module).values():
            members = vars(thing).values() if inspect.isclass(thing) else (thing,)
            found.update({id(each): each for each in members if isinstance(each, FunctionType) and each.__module__ in names})
    for function in found.values():
        instrument(function)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path, help="run this kept input once, without the fuzzer")
    args = parser.parse_args()
    if args.input:
        one_input(args.input.read_bytes())
        return 0
    try:
        import atheris
    except ImportError as err:
        print(f"fuzz_codecs: atheris: expected it installed, got {err}; run make fuzz, or pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    corpus = BUILD / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number:04}").write_bytes(seed)
        one_input(seed)  # compiles every kernel before the clock of an input runs
    kv = [module for name, module in sorted(sys.modules.items()) if name.startswith("h2o_gate_plugin.kv.")]
    n_function = instrumented(kv, atheris.instrument_func)
    print(f"fuzz_codecs: {len(CODECS)} codecs, {len(TARGETS)} targets, {n_function} functions seen, {args.seconds} s", flush=True)
    limits = [f"-max_total_time={args.seconds}", f"-rss_limit_mb={RSS_MIB}", f"-timeout={SECONDS_PER_INPUT}", "-max_len=24576"]
    output = [f"-artifact_prefix={BUILD}/", "-print_final_stats=1", "-verbosity=0"]
    child = os.fork()
    if child == 0:
        atheris.Setup([sys.argv[0], *limits, *output, str(corpus)], one_input)
        atheris.Fuzz()
    _, status = os.waitpid(child, 0)
    for target, tried in zip(TARGETS, TRIED, strict=True):
        print(f"fuzz_codecs: {target.__name__:<18}{tried:>9} inputs")
    code = os.waitstatus_to_exitcode(status)
    print(f"fuzz_codecs: {sum(TRIED)} inputs, {'no finding' if code == 0 else f'a finding, exit code {code}'}")
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
