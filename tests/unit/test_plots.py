"""A picture's file is refused before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.plots import can_draw, refuse_pictures


@pytest.mark.parametrize(("name", "got"), [("x.gif", ".gif"), ("x", "none"), ("x.svg.png", ".png")])
def test_a_name_that_says_another_format_is_refused(name: str, got: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--out-svg: {name}: expected a name that ends in .svg, got {got}; rename it$"):
        refuse_pictures({"--out-png": None, "--out-svg": Path(name)})


def test_without_matplotlib_a_picture_is_one_line_that_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_pictures({"--out-svg": Path("x.SVG"), "--png": Path("x.png")})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not can_draw()
    refuse_pictures({"--svg": None})
    with pytest.raises(
        ConfigError, match=r"^--png: x.png: expected matplotlib .* pip install 'pytest-h2o-gate\[plots\]', or leave it out$"
    ):
        refuse_pictures({"--png": Path("x.png")})
