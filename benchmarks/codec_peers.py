"""Other lossless compressors behind the codecs' own two calls, each at the setting that did best on 32 KiB blocks of real fp16 KV."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np

from h2o_gate_plugin.kv.codec import U16, Part, Shape
from h2o_gate_plugin.kv.planes import join_planes, split_planes
from h2o_gate_plugin.kv.zstd_frames import ZstdFrames

ZSTD_LEVEL = 3
"""The contract's."""


class Coder(Protocol):
    """The two calls of a `Codec`; ``name`` is the table's."""

    @property
    def name(self) -> str: ...

    def encode(self, tensor: U16, part: Part) -> bytes: ...

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16: ...


def peers() -> tuple[tuple[Coder, ...], tuple[str, ...]]:
    """All that are installed, and a line for each that is not."""
    found: list[Coder] = [Zstd(), SplitZstd(low_zstd=False), SplitZstd(low_zstd=True)]
    skipped: list[str] = []
    made: tuple[tuple[str, Callable[[], Coder]], ...] = (("zipnn", ZipNn), ("pcodec", Pcodec), ("blosc2", Blosc2))
    for name, make in made:
        try:
            found.append(make())
        except ImportError as err:
            skipped.append(f"{name}: skipped: {err}; pip install -e '.[codecs]'")
    return tuple(found), tuple(skipped)


class Zstd:
    """The raw bytes, words as they lie."""

    name = f"zstd {ZSTD_LEVEL}"

    def __init__(self) -> None:
        self._zstd = ZstdFrames(ZSTD_LEVEL)

    def encode(self, tensor: U16, part: Part) -> bytes:
        return self._zstd.compress(tensor.view(np.uint8))

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return np.frombuffer(self._zstd.decompress(payload, 2 * int(np.prod(shape)), self.name), dtype=np.uint16).reshape(shape)


class SplitZstd:
    """The high bytes as one zstd frame, then the low bytes, as they are or as a second frame; 4 bytes of length before."""

    def __init__(self, low_zstd: bool) -> None:
        self.name = f"byte split, zstd {ZSTD_LEVEL} + {f'zstd {ZSTD_LEVEL}' if low_zstd else 'raw'}"
        self._zstd, self._low_zstd = ZstdFrames(ZSTD_LEVEL), low_zstd

    def encode(self, tensor: U16, part: Part) -> bytes:
        high, low = split_planes(tensor)
        frame = self._zstd.compress(high)
        return len(frame).to_bytes(4, "little") + frame + (self._zstd.compress(low) if self._low_zstd else low.tobytes())

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        data, n_bytes = memoryview(payload), int(np.prod(shape))
        end = 4 + int.from_bytes(data[:4], "little")
        low = self._zstd.decompress(data[end:], n_bytes, self.name) if self._low_zstd else data[end:]
        high = self._zstd.decompress(data[4:end], n_bytes, self.name)
        return join_planes(np.frombuffer(high, dtype=np.uint8).reshape(shape), np.frombuffer(low, dtype=np.uint8).reshape(shape))


class ZipNn:
    """Its float16 mode, Huffman codes, one thread. Its bfloat16 mode is 0.05 % smaller on fp16 words; zstd inside it is the same size."""

    name = "zipnn"

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own about its coming releases
            from zipnn import ZipNN
        self._zipnn = ZipNN(method="HUFFMAN", bytearray_dtype="float16", threads=1)

    def encode(self, tensor: U16, part: Part) -> bytes:
        return bytes(self._zipnn.compress(tensor.tobytes()))  # it takes bytes only

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return np.frombuffer(self._zipnn.decompress(payload), dtype=np.uint16).reshape(shape)


class Pcodec:
    """The words as float16: 0.1 % smaller than as uint16. No delta: what it looks for at every block it never takes, in half its time."""

    name = "pcodec"

    def __init__(self) -> None:
        from pcodec import ChunkConfig, DeltaSpec, standalone

        self._standalone, self._config = standalone, ChunkConfig(compression_level=8, delta_spec=DeltaSpec.no_op())

    def encode(self, tensor: U16, part: Part) -> bytes:
        return bytes(self._standalone.simple_compress(tensor.view(np.float16).reshape(-1), self._config))

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return np.asarray(self._standalone.simple_decompress(payload)).view(np.uint16).reshape(shape)


class Blosc2:
    """Byte shuffle and zstd 3 (its level 2); a stream per byte plane, without which the ratio falls to that of plain zstd. One thread."""

    name = "blosc2"

    def __init__(self) -> None:
        import blosc2

        self._blosc2 = blosc2
        self._packing = blosc2.CParams(
            codec=blosc2.Codec.ZSTD,
            clevel=2,
            typesize=2,
            filters=[blosc2.Filter.SHUFFLE],
            filters_meta=[0],
            splitmode=blosc2.SplitMode.ALWAYS_SPLIT,
            nthreads=1,
        )
        self._unpacking = blosc2.DParams(nthreads=1)

    def encode(self, tensor: U16, part: Part) -> bytes:
        return bytes(self._blosc2.compress2(tensor, cparams=self._packing))

    def decode(self, payload: bytes, shape: Shape, part: Part) -> U16:
        return np.frombuffer(self._blosc2.decompress2(payload, dparams=self._unpacking), dtype=np.uint16).reshape(shape)
