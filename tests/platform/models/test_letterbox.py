"""A view inside a black square."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.models.letterbox import letterbox_region, letterboxed


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 50), (50, 3), (31, 33), (1, 1)])
def test_a_letterbox_lies_where_it_says(height, width):
    square = letterboxed(np.full((height, width), 255, np.uint8), 16)
    top, left, rows, columns = letterbox_region(height, width, 16)
    expected = np.zeros((16, 16), np.uint8)
    expected[top : top + rows, left : left + columns] = 255
    assert np.array_equal(square, expected)
