"""Picture files become arrays of one channel."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vetdino.platform.data.pictures import decode_grey


def test_sixteen_bits_stay_sixteen_bits_and_colour_becomes_grey():
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    assert np.array_equal(decode_grey(cv2.imencode(".png", deep)[1].tobytes()), deep)
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    colour = io.BytesIO()
    Image.fromarray(np.dstack([grey] * 3)).save(colour, "png")
    assert np.array_equal(decode_grey(colour.getvalue()), grey)


def test_bytes_that_are_no_picture_are_refused():
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match="cannot identify image file"):
        decode_grey(b"no picture")
    with pytest.raises(ValueError, match="truncated"):
        decode_grey(whole[: len(whole) // 2])
