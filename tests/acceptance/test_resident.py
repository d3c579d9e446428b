"""`resident_pass`: KV memory of the H2O layers shrinks as much as the ratio says (--min-resident, --min-joint-resident)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.resident


def test_memory_is_really_freed(h2o_case: JudgedCase) -> None:
    h2o_case.require("resident_pass")
