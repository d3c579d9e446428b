"""What a user sees while units are measured: a bar on a terminal, a line now and then elsewhere, nothing when it is soon over."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from h2o_gate_plugin.offline.unit_progress import UnitProgress

from .test_workers import units_of

UNIT_BYTES = 2 * 75 * 2 * 6 * 2  # the first entry: K and V of 75 tokens, 2 heads, 6 channels, fp16


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Moves on by a step whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self._now_s, self._step_s = 100.0, step_s

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s


def shown(stream: io.StringIO, step_s: float, n: int, folder: Path) -> str:
    progress = UnitProgress(stream, Clock(step_s))
    units = units_of(n, folder)
    progress.start(units)
    for unit in units:
        progress.finished(unit)
    progress.close()
    assert (progress.units, progress.bytes) == (n, n * UNIT_BYTES) == (progress.total_units, progress.total_bytes)
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_soon_over_shows_nothing(stream: type[io.StringIO], dump_dir: Path) -> None:
    assert shown(stream(), 0.001, 100, dump_dir) == ""


def test_without_a_terminal_a_line_comes_every_ten_seconds(dump_dir: Path) -> None:
    lines = shown(io.StringIO(), 3.0, 20, dump_dir).splitlines()
    assert len(lines) == 4  # a minute of units, the last one without a line
    assert lines[0].startswith("offline: 4 of 20 units, ")
    assert lines[0].endswith("0.0 MB/s, about 48 s left")


def test_a_terminal_gets_a_bar_that_is_taken_away_in_the_end(dump_dir: Path) -> None:
    text = shown(Terminal(), 1.0, 4, dump_dir)
    assert "\n" not in text
    frames = text.split("\r")
    assert frames[1].startswith("[######------------------] 1 of 4 units, ")
    assert frames[3].startswith("[##################------] 3 of 4 units, ")
    assert frames[-2].strip() == frames[-1] == ""
    assert len(frames[-2]) >= len(frames[3].rstrip())


def test_without_a_stream_it_only_counts(dump_dir: Path) -> None:
    progress = UnitProgress(None, Clock(60.0))
    progress.start(units_of(2, dump_dir))
    progress.finished(units_of(1, dump_dir)[0])
    progress.close()
    assert (progress.units, progress.total_units) == (1, 2)
