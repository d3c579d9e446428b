"""Set-up of this repository's own tests; the plugin itself is registered by its entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.session.gate_run import packs_named

pytest_plugins = ("pytester",)

UNIT_TESTS = Path(__file__).parent / "tests" / "unit"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A gate run (`pytest -m m3`) leaves the unit tests alone: none has a pack's marker, and they need the extra ``dev``."""
    return True if collection_path == UNIT_TESTS and packs_named(str(config.option.markexpr)) else None
