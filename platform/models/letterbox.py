"""A view of any shape inside a black square."""

from __future__ import annotations

import cv2
import numpy as np


def letterbox_region(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Where a view of height x width lies in a square of `side` pixels: (top, left, rows, columns).

    >>> letterbox_region(10, 20, 8)
    (2, 0, 4, 8)
    """
    scale = side / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return (side - rows) // 2, (side - columns) // 2, rows, columns


def letterboxed(pixels_HW: np.ndarray, side: int) -> np.ndarray:
    """The view in the middle of a black square of side x side, its proportions kept, uint8.

    >>> letterboxed(np.full((10, 20), 200, np.uint8), 8)[0, 0], letterboxed(np.full((8, 8), 9, np.uint8), 8)[0, 0]
    (np.uint8(0), np.uint8(9))
    """
    height, width = pixels_HW.shape
    top, left, rows, columns = letterbox_region(height, width, side)
    shrinks = side < max(height, width)
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    square = np.zeros((side, side), np.uint8)
    square[top : top + rows, left : left + columns] = cv2.resize(
        pixels_HW, (columns, rows), interpolation=interpolation
    )
    return square
