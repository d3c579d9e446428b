"""Set-up of this repository's own tests; the plugin itself is registered by its entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.session.gate_run import packs_named

OWN_TESTS = tuple(Path(__file__).parent / "tests" / folder for folder in ("unit", "faults", "reliability"))


def pytest_configure(config: pytest.Config) -> None:
    """Paths that are typed, and the ini file's, are not asked for by ``pytest_ignore_collect``."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and packs_named(str(config.option.markexpr)):
        config.args = [word for word in config.args if config.rootpath / word not in OWN_TESTS]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A gate run (`pytest -m m3`) leaves our own tests alone: none has a pack's marker, and the unit tests need the extra ``dev``."""
    return True if collection_path in OWN_TESTS and packs_named(str(config.option.markexpr)) else None
