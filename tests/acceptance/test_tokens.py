"""`tokens_pass`: as many tokens are decoded as the speeds are divided by (--max-missing-tokens)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.tokens


def test_all_nominal_tokens_are_decoded(h2o_case: JudgedCase) -> None:
    h2o_case.require("tokens_pass")
