from __future__ import annotations

from h2o_gate_plugin.errors import nearest


def test_a_close_word_is_suggested() -> None:
    assert nearest("adaptiv", ("static", "adaptive")) == "did you mean 'adaptive'?"


def test_a_far_word_gets_the_list_of_legal_ones() -> None:
    assert nearest("zzz", ("static", "adaptive")) == "legal are static, adaptive"
