"""`runtime_decomp_pass`: compressed KV was really decoded, within the budget if there is one (--max-decomp-us)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.decomp


def test_decompression_happens_within_its_budget(h2o_case: JudgedCase) -> None:
    h2o_case.require("runtime_decomp_pass")
