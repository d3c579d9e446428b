"""Whatever stands in a file from outside: a value, or one of our errors in one line; no other exception, no wait, no heap of memory."""

from __future__ import annotations

import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_gate_plugin.errors import H2oGateError
from tests.unit.bad_input.readers import READERS, Reader

BOUNDED = settings(derandomize=True, database=None, max_examples=25)
HANGS_AFTER_S = 120
MOST_BYTES = 128 * 2**20
"""Allocated at once while a file of a few KiB is read and judged."""


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what hangs (no test of speed: two minutes are a thousand times what any of these takes), and measures memory."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"still reading after {HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_AFTER_S)
    tracemalloc.start(1)
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader: Reader, path: Path) -> str | None:
    """None for a value, the line of an error; any other exception is the test's failure."""
    with bounded():
        try:
            reader.read(path)
        except H2oGateError as err:
            told = str(err)
            assert told
            assert "\n" not in told
            return told
    return None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, bytes]]:
    """Reader → the file that is damaged, in a folder with all that the reader needs, and its valid bytes."""
    made: dict[str, tuple[Path, bytes]] = {}

    def folder_of(name: str) -> tuple[Path, bytes]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            path = folder / READERS[name].make(folder)
            made[name] = path, path.read_bytes()
        path, valid = made[name]
        _remove(path)
        path.write_bytes(valid)
        return path, valid

    return folder_of


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", READERS)
def test_a_valid_example_is_read(name: str, folders: Callable[[str], tuple[Path, bytes]]) -> None:
    """Else the damage below would be damage to what was refused anyway."""
    path, _ = folders(name)
    READERS[name].read(path)


@pytest.mark.parametrize("name", READERS)
@BOUNDED
@given(random=st.randoms(use_true_random=False))
def test_a_damaged_file_gives_a_value_or_an_error_of_ours(name: str, random: Random, folders: Callable[[str], tuple[Path, bytes]]) -> None:
    path, valid = folders(name)
    path.write_bytes(READERS[name].damage(valid, random))
    outcome(READERS[name], path)


def _bytes(data: bytes) -> Callable[[Path, bytes], None]:
    return lambda path, valid: _overwrite(path, data)


def _overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _in_place(make: Callable[[Path], None]) -> Callable[[Path, bytes], None]:
    def fault(path: Path, valid: bytes) -> None:
        path.unlink()
        make(path)

    return fault


def _circle(path: Path) -> None:
    path.symlink_to(path)


FAULTS: dict[str, Callable[[Path, bytes], None]] = {
    "empty": _bytes(b""),
    "blank": _bytes(b" \n\n"),
    "byte order mark": lambda path, valid: _overwrite(path, b"\xef\xbb\xbf" + valid),
    "UTF-16": lambda path, valid: _overwrite(path, valid.decode("utf-8", "replace").encode("utf-16")),
    "not UTF-8": lambda path, valid: _overwrite(path, valid[: len(valid) // 2] + b"\xff\xfe" + valid[len(valid) // 2 :]),
    "zeros": _bytes(bytes(4096)),
    "CRLF": lambda path, valid: _overwrite(path, valid.replace(b"\n", b"\r\n")),
    "cut in half": lambda path, valid: _overwrite(path, valid[: len(valid) // 2]),
    "twice": lambda path, valid: _overwrite(path, valid + valid),
    "a line of 50 KB": _bytes(b"x" * 50_000),
    "an integer of 5,000 digits": _bytes(b"9" * 5000),
    "brackets 20,000 deep": _bytes(b"[" * 20_000 + b"]" * 20_000),
    "objects 20,000 deep": _bytes(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "braces 900 deep": _bytes(b'{"a": ' * 900 + b"1" + b"}" * 900),
    "an array": _bytes(b"[1, 2]"),
    "null": _bytes(b"null"),
    "a pickle": _bytes(b"cposix\nsystem\n(S'id'\ntR."),
    "no such file": _in_place(lambda path: None),
    "a folder": _in_place(Path.mkdir),
    "a FIFO": _in_place(os.mkfifo),
    "a link to itself": _in_place(_circle),
    "a device that never ends": _in_place(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_another_thing_altogether_gives_a_value_or_an_error_of_ours(
    fault: str, folders: Callable[[str], tuple[Path, bytes]]
) -> None:
    for name, reader in READERS.items():
        path, valid = folders(name)
        FAULTS[fault](path, valid)
        try:
            outcome(reader, path)
        except Exception as err:
            err.add_note(f"reader {name}")
            raise
        finally:
            _remove(path)
