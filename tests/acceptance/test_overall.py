"""`overall_pass`: every enabled gate of the case holds."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.overall


def test_every_enabled_gate_holds(h2o_case: JudgedCase) -> None:
    h2o_case.require_overall()
