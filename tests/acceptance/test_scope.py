"""`scope_pass`: layers outside the H2O range keep every token, and each part of the lossless scope packs something.

Limits: --max-scope-violations.
"""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.scope


def test_every_layer_is_treated_as_configured(h2o_case: JudgedCase) -> None:
    h2o_case.require("scope_pass")
