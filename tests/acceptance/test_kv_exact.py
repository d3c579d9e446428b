"""`kv_exact_pass`: decoded KV is bit for bit what went in, over two turns too (--max-mismatches)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.kv_exact


def test_kv_is_exact_over_two_turns(h2o_case: JudgedCase) -> None:
    h2o_case.require("kv_exact_pass")
