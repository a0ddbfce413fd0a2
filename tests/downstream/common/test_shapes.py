"""Shapes as text."""

import pytest

from vetdino.downstream.common.shapes import shape_text


@pytest.mark.parametrize(("shape", "expected"), [((), ""), ((7,), "7"), ((36, 256, 255), "36x256x255")])
def test_a_shape_is_its_sides_with_an_x_between(shape, expected):
    assert shape_text(shape) == expected
