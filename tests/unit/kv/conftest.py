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
F64 = npt.NDArray[np.float64]
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
    """Decodes 17 to 240 bytes to others with the same XXH3-64, which masks the first two 64-bit numbers and takes their product.

    The masks are the first two numbers of XXH3's default secret. The factors are swapped: each number becomes the other, its own mask
    taken off and the other's put on.
    """

    MASKS = 0xBE4BA423396CFEB8 ^ 0x1CAD21F72C81017C

    def decode(self, payload: bytes, shape: tuple[int, int, int], part: Part) -> U16:
        words = super().decode(payload, shape, part)
        first_two = words.reshape(-1)[:8].view(np.uint64)
        first_two[:] = first_two[::-1] ^ np.uint64(self.MASKS)
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
    """Feeds a cache what a model would: small random K and V, random queries; all seeded.

    Remembers the fp16 words of every token, as plain lists, in ``keys[layer][position]`` and ``values``, and works out by itself, in
    float64, what attention over the kept ones gives: ``seen_probs`` holds (layer, probabilities [n_head, n_new, n_seq], decode).
    """

    def __init__(self, cache: KvCache, n_head: int = 4, seed: int = 0) -> None:
        self.cache, self.n_head = cache, n_head
        self._random = np.random.default_rng(seed)
        n_layer = cache.shape.n_layer
        self.keys: list[list[U16]] = [[] for _ in range(n_layer)]
        self.values: list[list[U16]] = [[] for _ in range(n_layer)]
        self.seen_probs: list[tuple[int, F64, bool]] = []

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
        queries = self._random.standard_normal((n_new, self.n_head, shape[2])).astype(np.float32)
        self.keys[layer].extend(keys.astype(np.float16).view(np.uint16))
        self.values[layer].extend(values.astype(np.float16).view(np.uint16))
        kept = [*self.cache.positions(layer), *range(len(self.keys[layer]) - n_new, len(self.keys[layer]))]
        mixed = self.cache.attend(layer, queries, keys, values, decode)
        expected = self._attention(layer, queries, kept, decode)
        np.testing.assert_allclose(mixed, expected.reshape(n_new, -1), rtol=1e-4, atol=1e-5)

    def _attention(self, layer: int, queries: F32, kept: list[int], decode: bool) -> F64:
        n_new, group = len(queries), self.n_head // self.cache.shape.n_kv_head
        keys, values = (
            np.array([fed[layer][position] for position in kept]).view(np.float16).astype(np.float64) for fed in (self.keys, self.values)
        )
        scores = np.einsum("qhd,nhd->hqn", queries.astype(np.float64), np.repeat(keys, group, axis=1)) / np.sqrt(queries.shape[2])
        hidden = np.arange(len(kept))[None, :] > np.arange(len(kept) - n_new, len(kept))[:, None]
        weights = np.where(hidden, 0.0, np.exp(scores - scores.max(axis=2, keepdims=True)))
        probs = weights / weights.sum(axis=2, keepdims=True)
        self.seen_probs.append((layer, probs, decode))
        mixed: F64 = np.einsum("hqn,nhd->qhd", probs, np.repeat(values, group, axis=1))
        return mixed

    def assert_exact(self) -> None:
        """Every layer's K and V are, bit for bit, the words of what was fed at the positions kept."""
        for layer in range(self.cache.shape.n_layer):
            positions = self.cache.positions(layer)
            parts: tuple[Part, Part] = ("k", "v")
            for part, fed in zip(parts, (self.keys, self.values), strict=True):
                expected = np.array([fed[layer][position] for position in positions])
                assert np.array_equal(self.cache.words(layer, part), expected), f"layer {layer} {part}"


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
