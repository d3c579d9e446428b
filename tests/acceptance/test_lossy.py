"""`lossy_pass`: H2O leaves at most a third of the KV cache (the limit is --min-lossy)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.lossy


def test_eviction_shrinks_the_cache_enough(h2o_case: JudgedCase) -> None:
    h2o_case.require("lossy_pass")
