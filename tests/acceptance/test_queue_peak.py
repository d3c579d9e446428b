"""`runtime_queue_peak_pass`: the encoder keeps up (--max-queue-peak)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.queue_peak


def test_the_encode_queue_stays_short(h2o_case: JudgedCase) -> None:
    h2o_case.require("runtime_queue_peak_pass")
