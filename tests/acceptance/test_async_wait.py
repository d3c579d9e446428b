"""`async_wait_pass`: a run hardly waits for the encode workers (--max-async-wait-us)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.async_wait


def test_a_run_hardly_waits_for_the_encoder(h2o_case: JudgedCase) -> None:
    h2o_case.require("async_wait_pass")
