"""`runtime_fallback_pass`: every cold block ends compressed and exact (--max-fallback)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.fallback


def test_no_cold_block_is_left_uncompressed(h2o_case: JudgedCase) -> None:
    h2o_case.require("runtime_fallback_pass")
