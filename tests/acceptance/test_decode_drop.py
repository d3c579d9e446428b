"""`decode_pass`: decode is hardly slower than the baseline of the same batch (--max-decode-drop)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.decode_drop


def test_decode_is_not_slower_than_the_baseline(h2o_case: JudgedCase) -> None:
    h2o_case.require("decode_pass")
