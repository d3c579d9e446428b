"""`backpressure_pass`: no group is refused by a full queue (--max-backpressure)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.backpressure


def test_no_group_is_refused(h2o_case: JudgedCase) -> None:
    h2o_case.require("backpressure_pass")
