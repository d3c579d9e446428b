"""The embedded ``llm_bench`` with an encoder that is slow, or that fails once the queue is full; started by `test_full_queue`.

    python queued_llm_bench.py slow|failing|sound llm_bench's own words

It says on stdout ``fingerprint=…`` of every run (tokens, kept positions, every word of K and V) and ``full`` when a group is first refused.
Planted in this process only: nothing of the product imports it or knows of it.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import h2o_gate_plugin.kv.encode_queue as queue_module
import h2o_gate_plugin.runtime.measure as measure_module
from h2o_gate_plugin.kv.encode_queue import encode_group
from h2o_gate_plugin.kv.store import LosslessStore
from h2o_gate_plugin.runtime import llm_bench
from h2o_gate_plugin.runtime.timed_run import run_once

SLOW_ENCODE_S = 0.05
REFUSED = threading.Event()


def plant(encoder: str) -> None:
    """Raises KeyError for an unknown encoder."""
    setattr(queue_module, "encode_group", {"sound": encode_group, "slow": _slow, "failing": _failing}[encoder])  # noqa: B010 typed
    refuse = LosslessStore._refuse

    def telling(self: LosslessStore, *group: Any) -> None:
        refuse(self, *group)
        if not REFUSED.is_set():
            print("full", flush=True)
            REFUSED.set()

    def fingerprinted(*args: Any) -> Any:
        run = run_once(*args)
        print(f"fingerprint={run.fingerprint}", flush=True)
        return run

    setattr(LosslessStore, "_refuse", telling)  # noqa: B010
    setattr(measure_module, "run_once", fingerprinted)  # noqa: B010


def _slow(*args: Any) -> Any:
    time.sleep(SLOW_ENCODE_S)
    return encode_group(*args)


def _failing(*args: Any) -> Any:
    """A bug, no CodecError: it comes up while other groups wait."""
    REFUSED.wait(timeout=60)
    raise ZeroDivisionError("planted: a bug in the encoder")


if __name__ == "__main__":
    plant(sys.argv[1])
    sys.exit(llm_bench.main(sys.argv[2:]))
