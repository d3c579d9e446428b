"""Codecs that misbehave in one way each, a driver that plays a model, and an inventory of what a cache holds."""

from __future__ import annotations

import gc
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from h2o_gate_plugin.errors import CodecError
from h2o_gate_plugin.kv.cache import KvCache

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]
Part = Literal["k", "v"]


class ZlibCodec:
    """A small real codec; the base of those that misbehave."""

    name = "test_zlib"
    codec_id = 201

    def encode(self, tensor: U16, part: Part) -> bytes:
        return zlib.compress(tensor.tobytes(), 1)

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        try:
            return np.frombuffer(zlib.decompress(payload), dtype=np.uint16).reshape(shape).copy()
        except (zlib.error, ValueError) as err:
            raise CodecError(f"test codec: payload: expected {shape}, got damage") from err


class FailingCodec(ZlibCodec):
    """Encodes ``good`` tensors, then raises ``error`` at every call."""

    def __init__(self, error: Exception, good: int = 0) -> None:
        self._error, self._good = error, good

    def encode(self, tensor: U16, part: Part) -> bytes:
        self._good -= 1
        if self._good < 0:
            raise self._error
        return super().encode(tensor, part)


class LyingCodec(ZlibCodec):
    """Decodes to something else than was encoded: one bit of the first word differs."""

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        words = super().decode(payload, shape, part)
        words.flat[0] ^= 1
        return words


class ForgingCodec(ZlibCodec):
    """Decodes to something else with the same CRC-32: the polynomial itself, added anywhere, leaves the checksum as it is."""

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        words = super().decode(payload, shape, part)
        words.reshape(-1)[:3] ^= np.frombuffer((0x1DB710641).to_bytes(6, "little"), dtype=np.uint16)
        return words


class ExpandingCodec(ZlibCodec):
    """Stores raw, so that the frame around it makes it larger."""

    def encode(self, tensor: U16, part: Part) -> bytes:
        return tensor.tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        return np.frombuffer(payload, dtype=np.uint16).reshape(shape).copy()


class BlockedCodec(ZlibCodec):
    """Encodes nothing until it is released: the slowest codec there is."""

    def __init__(self) -> None:
        self.released = Event()
        self.entered = Event()

    def encode(self, tensor: U16, part: Part) -> bytes:
        self.entered.set()
        assert self.released.wait(timeout=30), "the test never released the codec"
        return super().encode(tensor, part)


class Driver:
    """Feeds a cache what a model would: smooth random K and V, random attention that looks back causally; all seeded.

    Remembers the fp16 words of every token, as plain lists, in ``keys[layer][position]`` and ``values``.
    """

    def __init__(self, cache: KvCache, n_head: int = 4, seed: int = 0) -> None:
        self.cache, self.n_head = cache, n_head
        self._random = np.random.default_rng(seed)
        n_layer = cache.shape.n_layer
        self.keys: list[list[U16]] = [[] for _ in range(n_layer)]
        self.values: list[list[U16]] = [[] for _ in range(n_layer)]
        self.seen_probs: list[tuple[int, F32, bool]] = []

    def feed(self, n_tokens: int, decode: bool) -> None:
        """One chunk of a prompt, or one decode token after the other."""
        for n_new in (1,) * n_tokens if decode else (n_tokens,):
            for layer in range(self.cache.shape.n_layer):
                self._feed_layer(layer, n_new, decode)
            if decode:
                self.cache.end_token()

    def _feed_layer(self, layer: int, n_new: int, decode: bool) -> None:
        shape = (n_new, self.cache.shape.n_kv_head, self.cache.shape.head_dim)
        keys: F32 = self._random.integers(-3, 4, shape).astype(np.float32)  # few values, so that codecs have something to find
        values: F32 = self._random.integers(-3, 4, shape).astype(np.float32)
        self.cache.append(layer, keys, values)
        self.keys[layer].extend(keys.astype(np.float16).view(np.uint16))
        self.values[layer].extend(values.astype(np.float16).view(np.uint16))
        n_seq = self.cache.keys(layer).shape[1]
        assert self.cache.values(layer).shape[1] == n_seq
        scores = self._random.standard_normal((self.n_head, n_new, n_seq)).astype(np.float32) * 3
        visible = np.arange(n_seq)[None, :] <= np.arange(n_seq - n_new, n_seq)[:, None]
        weights = np.where(visible, np.exp(scores), 0).astype(np.float32)
        probs = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
        self.seen_probs.append((layer, probs, decode))
        self.cache.observe(layer, probs, decode)

    def assert_exact(self) -> None:
        """Every layer's keys and values are, bit for bit, the float32 image of what was fed at the positions kept."""
        for layer in range(self.cache.shape.n_layer):
            positions = self.cache.positions(layer)
            for read, fed in ((self.cache.keys, self.keys), (self.cache.values, self.values)):
                expected = np.array([fed[layer][position] for position in positions]).view(np.float16).astype(np.float32)
                got = read(layer).transpose(1, 0, 2)
                assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), f"layer {layer}"


@pytest.fixture
def codecs() -> dict[str, Callable[..., Any]]:
    return {
        "zlib": ZlibCodec,
        "failing": FailingCodec,
        "lying": LyingCodec,
        "forging": ForgingCodec,
        "expanding": ExpandingCodec,
        "blocked": BlockedCodec,
    }


@pytest.fixture
def driver() -> type[Driver]:
    return Driver


@pytest.fixture
def kv_inventory() -> Callable[[KvCache], int]:
    """Bytes of all K and V that a cache can reach: its uint16 and float32 arrays and its byte strings, each buffer once."""

    def count(cache: KvCache) -> int:
        return sum(_kv_buffers(cache))

    return count


def _kv_buffers(root: object) -> Iterator[int]:
    seen: set[int] = set()
    todo: list[object] = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | str) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            if thing.base is not None:
                todo.append(thing.base)
            elif thing.dtype in (np.uint16, np.float32):
                yield thing.nbytes
        elif isinstance(thing, bytes):
            yield len(thing)
        else:
            todo.extend(vars(thing).values() if hasattr(thing, "__dict__") else ())
            todo.extend(gc.get_referents(thing) if isinstance(thing, dict | list | tuple | set | deque) else ())
