"""The acceptance tests that ship join a gate run for which no path was typed, wherever pytest was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2o_gate_plugin.errors import ConfigError

TYPED = "h2o_paths_typed"
"""Key of a worker's input: xdist types the paths anew for its workers."""

OUTSIDE = "h2o_gate_plugin.acceptance"
"""Begins the ids of these tests where they lie outside pytest's root folder; inside, ids are paths."""


def acceptance_folder() -> Path:
    """Inside the installed package (wheel), or the repository's own (checkout). Raises ConfigError when neither exists."""
    package = Path(__file__).resolve().parents[1]
    shipped, checkout = package / "acceptance", package.parent / "tests" / "acceptance"
    for folder in (shipped, checkout):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{shipped}: acceptance tests: expected their folder, got nothing; install pytest-h2o-gate again")


def paths_typed(config: pytest.Config) -> bool:
    """Whether the user named what to collect; an ini file's testpaths do not count."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput[TYPED])
    return config.args_source is pytest.Config.ArgsSource.ARGS


class ShippedTests:
    """Registered for a gate run whose pack was named by -m."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Before -m and -k select. Collected apart from the arguments, because pytest looks into no virtual environment below a folder."""
        if paths_typed(config):
            return
        try:
            folder = acceptance_folder()
        except ConfigError as err:
            raise pytest.UsageError(str(err)) from err
        if not any(folder in item.path.parents for item in items):
            items.extend(session.genitems(pytest.Package.from_parent(session, path=folder, nodeid=OUTSIDE)))
