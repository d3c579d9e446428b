"""`quality_pass`: the text stays close to the full cache's, and heavy hitters are kept.

Limits: --max-kl, --min-top1, --max-nll-ratio, --min-recall, --min-recall-lead.
"""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.quality


def test_the_text_is_as_good_as_with_the_full_cache(h2o_case: JudgedCase) -> None:
    h2o_case.require("quality_pass")
