"""Hypothesis for all unit tests: no example is failed for its seconds, which a busy machine decides."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
