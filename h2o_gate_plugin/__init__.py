"""Acceptance gates for KV-cache compression in LLM runtimes, as a pytest plugin."""

__version__ = "0.1.0"
