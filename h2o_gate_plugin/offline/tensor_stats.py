"""What 16-bit words say of themselves before any codec sees them: byte histograms, zeros, rows that repeat."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np

from h2o_gate_plugin.kv.planes import U16
from h2o_gate_plugin.offline.order0_kernels import count_bytes, count_repeated_rows

Histogram = tuple[int, ...]
"""How often each of the 256 bytes occurs."""

_EMPTY: Histogram = (0,) * 256


@dataclass(frozen=True)
class TensorStats:
    """Counts over one or more tensors; shares and entropies are None where nothing was counted.

    ``zero_words``: +0 and -0. ``duplicate_rows``: token rows that equal an earlier row of their own tensor.
    """

    words: int = 0
    zero_words: int = 0
    rows: int = 0
    duplicate_rows: int = 0
    hi_counts: Histogram = _EMPTY
    lo_counts: Histogram = _EMPTY

    def __add__(self, other: TensorStats) -> TensorStats:
        if not other.rows:
            return self
        return TensorStats(
            self.words + other.words,
            self.zero_words + other.zero_words,
            self.rows + other.rows,
            self.duplicate_rows + other.duplicate_rows,
            tuple(mine + theirs for mine, theirs in zip(self.hi_counts, other.hi_counts, strict=True)),
            tuple(mine + theirs for mine, theirs in zip(self.lo_counts, other.lo_counts, strict=True)),
        )

    @property
    def zero_share(self) -> float | None:
        return self.zero_words / self.words if self.words else None

    @property
    def duplicate_row_share(self) -> float | None:
        return self.duplicate_rows / self.rows if self.rows else None

    @property
    def hi_entropy_bits(self) -> float | None:
        """Order-0 entropy of the high byte, bits per byte."""
        return entropy_bits_per_byte(self.hi_counts)

    @property
    def lo_entropy_bits(self) -> float | None:
        return entropy_bits_per_byte(self.lo_counts)

    @property
    def order0_ratio(self) -> float | None:
        """16 / (bits of the high byte + bits of the low byte): what one table per byte plane would give; None for constant words."""
        bits = (self.hi_entropy_bits or 0.0) + (self.lo_entropy_bits or 0.0)
        return 16 / bits if bits else None


def tensor_stats(tensor: U16) -> TensorStats:
    """The statistics of u16 ``[n_seq, kv_heads, head_dim]``."""
    words = np.ascontiguousarray(tensor).reshape(-1)
    high, low = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    zero_words = int(count_bytes(words, high, low))
    slots = np.full(1 << (len(tensor).bit_length() + 1), -1, dtype=np.int64)
    duplicate_rows = int(count_repeated_rows(words.reshape(len(tensor), -1), slots)) if len(words) else 0
    return TensorStats(len(words), zero_words, len(tensor), duplicate_rows, tuple(high.tolist()), tuple(low.tolist()))


def entropy_bits_per_byte(counts: Histogram) -> float | None:
    """Shannon's H of the histogram, 0 to 8."""
    total = sum(counts)
    return sum(count * log2(total / count) for count in counts if count) / total if total else None
