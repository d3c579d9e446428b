"""`coverage_pass`: where the configuration claims full coverage, all cold KV is packed or proven (--min-coverage)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.coverage


def test_what_is_claimed_to_be_covered_is_covered(h2o_case: JudgedCase) -> None:
    h2o_case.require("coverage_pass")
