"""`decode_cache_pass`: store mode decodes what it reads, and its decode cache serves (--min-decode-cache-reads)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.decode_cache


def test_what_is_read_was_decoded(h2o_case: JudgedCase) -> None:
    h2o_case.require("decode_cache_pass")
