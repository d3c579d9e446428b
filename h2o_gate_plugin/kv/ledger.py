"""How many bytes of K and V are alive, and how many were at most. Threads may write to it."""

from __future__ import annotations

from threading import Lock


class ResidentLedger:
    """Every owner of K or V (raw rows, frames, queue copies, decoded copies, scratch) adds on allocation and removes on release.

    When an array replaces another, the new one is added first: both are alive while one is copied into the other. A codec's own
    working memory inside one call is not counted.
    """

    def __init__(self, n_layer: int) -> None:
        self._lock = Lock()
        self._layer_bytes = [0] * n_layer
        self._resident_bytes = 0
        self._peak_bytes = 0

    def add(self, layer: int | None, n_bytes: int) -> None:
        """``layer`` None: shared by all layers."""
        with self._lock:
            if layer is not None:
                self._layer_bytes[layer] += n_bytes
            self._resident_bytes += n_bytes
            self._peak_bytes = max(self._peak_bytes, self._resident_bytes)

    def remove(self, layer: int | None, n_bytes: int) -> None:
        self.add(layer, -n_bytes)

    @property
    def resident_bytes(self) -> int:
        with self._lock:
            return self._resident_bytes

    @property
    def peak_bytes(self) -> int:
        with self._lock:
            return self._peak_bytes

    def layer_bytes(self, layer: int) -> int:
        """Bytes that belong to one layer alone."""
        with self._lock:
            return self._layer_bytes[layer]
