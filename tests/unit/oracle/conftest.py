"""Tiny models on disk, written once for all examples."""

from __future__ import annotations

import pytest

from .drawn_runs import MODELS, TinyModel


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, ...]:
    folder = tmp_path_factory.mktemp("oracle")
    return tuple(TinyModel(folder / str(index), index) for index in range(len(MODELS)))
