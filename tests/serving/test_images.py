"""Pictures for a browser."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vetdino.serving.images import jpeg, shrunk


@pytest.mark.parametrize(("shape", "expected"), [((240, 160), (60, 40)), ((30, 200, 3), (9, 60, 3))])
def test_the_longer_side_becomes_the_wanted_one(shape, expected):
    assert shrunk(np.zeros(shape, np.uint8), 60).shape == expected


def test_a_small_picture_stays_as_it_is():
    picture = np.zeros((20, 30), np.uint8)
    assert shrunk(picture, 60) is picture


def test_a_jpeg_holds_gray_values_and_the_order_of_colors():
    gray = cv2.imdecode(np.frombuffer(jpeg(np.full((16, 16), 90, np.uint8)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert abs(int(gray.mean()) - 90) <= 2
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    decoded = cv2.imdecode(np.frombuffer(jpeg(red), np.uint8), cv2.IMREAD_COLOR)
    assert decoded[8, 8, 2] > 200 > decoded[8, 8, 0]  # OpenCV decodes as BGR
