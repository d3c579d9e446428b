"""How far an evaluation is: a bar on a terminal, now and then a line elsewhere, nothing while there is little to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TextIO

from h2o_gate_plugin.offline.selection import Unit

BAR_CELLS = 24
FIRST_BAR_S, BAR_INTERVAL_S = 0.5, 0.1
LINE_INTERVAL_S = 10.0


class UnitProgress:
    """Counts the units and bytes that are done; ``bytes`` are those of the K and V files."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        """``stream`` None: count only."""
        self._stream, self._clock = stream, clock
        self._live = stream is not None and stream.isatty()
        self._started_s = self._next_s = 0.0
        self._shown_cells = 0
        self.units = self.total_units = self.bytes = self.total_bytes = 0

    def start(self, units: Sequence[Unit]) -> None:
        self.total_units, self.total_bytes = len(units), sum(map(unit_bytes, units))
        self._started_s = self._clock()
        self._next_s = self._started_s + (FIRST_BAR_S if self._live else LINE_INTERVAL_S)

    def finished(self, unit: Unit) -> None:
        self.units += 1
        self.bytes += unit_bytes(unit)
        now = self._clock()
        if self._stream is None or now < self._next_s or self.units == self.total_units:
            return
        self._next_s = now + (BAR_INTERVAL_S if self._live else LINE_INTERVAL_S)
        text = self._text(now - self._started_s)
        if self._live:
            self._stream.write("\r" + text.ljust(self._shown_cells))
            self._shown_cells = len(text)
        else:
            self._stream.write(f"offline: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._stream is not None and self._shown_cells:
            self._stream.write("\r" + " " * self._shown_cells + "\r")
            self._stream.flush()
            self._shown_cells = 0

    def _text(self, elapsed_s: float) -> str:
        share = self.bytes / self.total_bytes
        cells = int(share * BAR_CELLS)
        bar = f"[{'#' * cells}{'-' * (BAR_CELLS - cells)}] " if self._live else ""
        done = f"{self.units} of {self.total_units} units, {self.bytes / 1e6:.1f} of {self.total_bytes / 1e6:.1f} MB"
        speed = f"{self.bytes / 1e6 / elapsed_s:.1f} MB/s" if elapsed_s > 0 else "…"
        return f"{bar}{done}, {speed}, about {elapsed_s / share - elapsed_s:.0f} s left"


def unit_bytes(unit: Unit) -> int:
    """Of its K and V files."""
    return sum(2 * entry.seq_len * entry.kv_heads * entry.head_dim * entry.bytes_per_elem for entry in unit)
