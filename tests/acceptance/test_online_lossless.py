"""`lossless_online_pass`: the front layers compress well enough without loss (--min-online-lossless)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.online_lossless


def test_front_layers_compress_enough_online(h2o_case: JudgedCase) -> None:
    h2o_case.require("lossless_online_pass")
