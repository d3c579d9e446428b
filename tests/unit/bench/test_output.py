"""What an engine process writes: its last lines, and the ends of what is too much, in little memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from h2o_gate_plugin.bench.output import KEPT_BYTES, TAIL_LINE_CHARS, TAIL_LINES, excess, shorten, tail


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ()),
        (b"\n \n\r\n", ()),
        (b"one\r\ntwo\n\nthree", ("one", "two", "three")),
        (b"10%\r20%\rdone\x0cnext\n", ("10%", "20%", "done", "next")),
        (b"a\xff\x00b\n", ("a\ufffd\x00b",)),
        ("ž±\n".encode() * 30, ("ž±",) * TAIL_LINES),
    ],
)
def test_the_tail_is_the_last_lines_that_say_something(tmp_path: Path, data: bytes, lines: tuple[str, ...]) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    assert tail(path) == lines


def test_the_tail_of_a_large_output_takes_little_memory_and_a_long_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"noise\n" * 1_000_000 + b"y" * 5_000_000)
    tracemalloc.start()
    try:
        lines = tail(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == ("y" * TAIL_LINE_CHARS + "…",)
    assert peak_bytes < 1_000_000


def test_an_output_that_is_no_file_any_more_has_no_tail(tmp_path: Path) -> None:
    pipe = tmp_path / "x.txt"
    os.mkfifo(pipe)
    assert tail(pipe) == tail(tmp_path / "absent.txt") == ()


def test_an_output_at_its_limit_is_left_alone_and_one_over_it_keeps_its_ends(tmp_path: Path) -> None:
    path, absent = tmp_path / "x.txt", tmp_path / "absent.log"
    data = b"first" + bytes(3 * KEPT_BYTES) + b"last"
    path.write_bytes(data)
    assert excess((absent, path), len(data)) is None
    shorten(path, len(data))
    assert path.read_bytes() == data
    limit = len(data) - 1
    told = f"{path}: output: expected at most {limit} bytes, got more, of which the ends are kept; let the engine write less"
    assert excess((absent, path), limit) == told
    shorten(path, limit)
    shorten(absent, limit)
    kept = path.read_bytes()
    assert kept.startswith(b"first")
    assert kept.endswith(b"last")
    assert f"[… {len(data) - 2 * KEPT_BYTES} bytes left out …]".encode() in kept
    assert len(kept) < 2 * KEPT_BYTES + 100
    assert not absent.exists()


def test_an_output_just_over_a_small_limit_does_not_grow_over_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"abcdefghijk")
    shorten(path, 10)
    assert path.read_text(encoding="utf-8") == "abcde\n[… 1 bytes left out …]\nghijk"
