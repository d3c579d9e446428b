"""`repeats_pass`: repeats and processes of one run give the same ratios (--max-repeat-spread)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.repeats


def test_no_repeat_leaks_into_the_next(h2o_case: JudgedCase) -> None:
    h2o_case.require("repeats_pass")
