"""Test-only set-up of this repository; the plugin itself is registered by its entry point."""

pytest_plugins = ("pytester",)
