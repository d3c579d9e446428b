"""`prompt_pass`: prompts are real text, no constant tokens (--max-constant-prompts)."""

from __future__ import annotations

import pytest

from h2o_gate_plugin.session.judged import JudgedCase

pytestmark = pytest.mark.prompt_kind


def test_prompts_are_real_text(h2o_case: JudgedCase) -> None:
    h2o_case.require("prompt_pass")
