"""What is kept of views that were looked at: bounded in bytes, whatever it is of."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.models.similarity import PatchGrid
from vetdino.serving.engine.encoded import EncodedViews
from vetdino.serving.engine.model import EncodedView

GRID = PatchGrid(height=64, width=64, side=64, patch=8)


def encoded(patches: int = 90) -> EncodedView:
    """A view of 4 * (patches + 10) bytes."""
    return EncodedView(np.zeros((patches, 1), np.float32), np.zeros((1, 10), np.float32), GRID)


@pytest.fixture
def views():
    return EncodedViews(1000)


def test_a_view_is_there_until_its_study_is_removed(views):
    first, second = encoded(), encoded()
    views.add((0, "test-1", 0), first)
    views.add((1, "test-1", 0), second)
    assert views.get((0, "test-1", 0)) is first
    assert views.get((0, "test-1", 1)) is None
    assert views.size == 800
    views.remove_study("test-1")
    assert (len(views), views.size) == (0, 0)


def test_of_studies_and_uploads_the_view_that_was_not_looked_at_longest_goes_first(views):
    views.add((0, "test-1", 0), encoded())
    views.add((0, "upload-2", 0), encoded())
    views.get((0, "test-1", 0))
    views.add((0, "test-3", 0), encoded())
    assert views.get((0, "upload-2", 0)) is None
    assert views.get((0, "test-1", 0)) is not None
    assert views.size == 800


def test_the_same_view_counts_once_and_one_that_is_too_large_is_not_kept(views):
    for _ in range(3):
        views.add((0, "test-1", 0), encoded())
    assert views.size == 400
    views.add((0, "test-2", 0), encoded(1000))
    assert (len(views), views.size) == (0, 0)
