"""The project with the scripted engine, as the plugin's tests have it."""

from tests.unit.plugin.conftest import project as project
