"""Galleries of drawn tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.gallery.tables import table
from vetdino.platform.measure.features import Features
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.config import IndexConfig


@pytest.fixture
def made(tmp_path_factory) -> Callable[..., Path]:
    """(table, index) -> the folder of a gallery."""

    def make(features: Features | None = None, index: str = "auto") -> Path:
        folder = tmp_path_factory.mktemp("gallery")
        build(FeaturesSource(features or table()), folder, IndexConfig(index=index))
        return folder

    return make
