"""The embedded ``llm_bench`` with one named fault planted in it, started by a launcher that a test writes.

Nothing of the product imports this, no option or variable of the product reaches it. Kernels that numba compiles are left as they
are, so that the machine code on disk stays that of the real engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from h2o_gate_plugin.runtime import llm_bench

from . import run_faults, score_faults, store_faults
from .planting import Plant

NO_FAULT = "none"
PLANTS: Mapping[str, Plant] = {
    NO_FAULT: lambda: None,
    **score_faults.PLANTS,
    **store_faults.PLANTS,
    **run_faults.PLANTS,
}


def main(fault: str) -> int:
    """Plant ``fault`` and be llm_bench; the exit code. Raises KeyError for an unknown name."""
    PLANTS[fault]()
    return llm_bench.main()
