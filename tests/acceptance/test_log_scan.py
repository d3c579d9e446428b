"""`log_pass`: no line of the output tells of broken KV (--max-log-errors)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.log_scan


def test_the_output_tells_of_no_damage(h2o_case: JudgedCase) -> None:
    h2o_case.require("log_pass")
