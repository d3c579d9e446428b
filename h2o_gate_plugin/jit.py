"""Compiled kernels: numba with its on-disk cache, and the few scalar operations that numpy has no word for.

A 16-bit floating-point word travels as an integer array whose dtype names the format: uint16 holds fp16, int16 holds bf16.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

ORDERED = frozenset({"contract", "nsz"})
"""Sums keep the order of the source, so that the same terms give the same bits whatever array they lie in."""
REORDERED = ORDERED | {"reassoc", "arcp"}
"""Sums over one contiguous row may be taken in vector lanes. NaN and infinity keep their meaning in both."""


def kernel(function: Function, flags: frozenset[str] = REORDERED) -> Function:
    """Compile at first use for the argument types seen, without the interpreter lock; keep the machine code on disk where possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": set(flags), "error_model": "numpy"}
    try:
        with _cached_in(_cache_folder()):
            compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder for the cache: compile in every process
        compiled = numba.njit(**options)(function)
    return cast(Function, compiled)


def sources_digest(sources: Iterable[Path]) -> str:
    """Of the bytes of all ``sources``. numba looks at the file of a kernel alone, not at those of the kernels that were inlined into it."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _kernel_sources(package: Path) -> Iterator[Path]:
    yield package / "jit.py"
    for folder in ("kv", "runtime", "offline"):
        yield from (package / folder).glob("*.py")


@cache
def _cache_folder() -> str:
    """For the machine code of exactly these sources; numba's own choice where the package's folder cannot be written."""
    package = Path(__file__).parent
    chosen = os.environ.get("NUMBA_CACHE_DIR", "")
    folder = Path(chosen or package / "__pycache__") / f"kernels-{sources_digest(_kernel_sources(package))}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return chosen
    return str(folder) if os.access(folder, os.W_OK) else chosen


@contextmanager
def _cached_in(folder: str) -> Iterator[None]:
    """numba reads the folder when a function is decorated; other users of numba in this process keep theirs."""
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, folder
    try:
        yield
    finally:
        config.CACHE_DIR = before


def ordered_kernel(function: Function) -> Function:
    """As `kernel`, with sums in the order of the source."""
    return kernel(function, ORDERED)


def inlined(generator: Callable[..., Any]) -> Callable[..., Any]:
    """A numba intrinsic, without the typing context among its arguments."""
    return cast(Callable[..., Any], intrinsic(generator))


@inlined
def widen(_: Any, word: Any) -> Any:
    """A uint16 fp16 word, an int16 bf16 word or a float32, as the exact float32."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        if word == types.uint16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        if word == types.int16:
            bits = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
            return builder.bitcast(bits, ir.FloatType())
        return args[0]

    return types.float32(word), generate


@inlined
def narrow(_: Any, value: Any, like: Any) -> Any:
    """A float32 rounded to nearest even in the format of the word ``like`` (uint16: fp16, int16: bf16); too large becomes infinity."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        word, wide = ir.IntType(16), ir.IntType(32)
        if like == types.uint16:
            return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), word)
        bits = builder.bitcast(args[0], wide)
        odd = builder.and_(builder.lshr(bits, ir.Constant(wide, 16)), ir.Constant(wide, 1))
        summed = builder.add(bits, builder.add(odd, ir.Constant(wide, 0x7FFF)))
        nearest = builder.trunc(builder.lshr(summed, ir.Constant(wide, 16)), word)
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(is_nan, ir.Constant(word, 0x7FC0), nearest)

    return like(types.float32, like), generate


@inlined
def bits_float(_: Any, bits: Any) -> Any:
    """The float32 of int32 bits."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@kernel
def exp_not_positive(x: Any) -> Any:
    """e^x of a float32 <= 0 to within 2e-7 of itself; 0 below -87. Needs no libm call, so that loops over it use vector lanes.

    Range reduction by a two-part ln 2 and the polynomial of Cephes' ``expf`` (Moshier 1989).
    """
    steps = np.floor(max(x, _LOWEST) * np.float32(1.44269504) + np.float32(0.5))
    rest = max(x, _LOWEST) - steps * np.float32(0.693359375) + steps * np.float32(2.12194440e-4)
    poly = np.float32(1.9875691500e-4)
    poly = poly * rest + np.float32(1.3981999507e-3)
    poly = poly * rest + np.float32(8.3334519073e-3)
    poly = poly * rest + np.float32(4.1665795894e-2)
    poly = poly * rest + np.float32(1.6666665459e-1)
    poly = poly * rest + np.float32(5.0000001201e-1)
    power = bits_float((np.int32(steps) + np.int32(127)) << np.int32(23))
    return np.float32(0.0) if x < _LOWEST else (poly * rest * rest + rest + np.float32(1.0)) * power


_LOWEST = np.float32(-87.0)
