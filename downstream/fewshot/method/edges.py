"""Scores of a coarse grid, drawn to the edges of the image: a guided filter.

He, Sun and Tang, "Guided image filtering", TPAMI 2013: around each pixel the scores are a straight line of the greys.
"""

# H, W pixels of a slice.

from __future__ import annotations

import cv2
import numpy as np

CONTRAST = 0.05
"""Variance of standardized greys from which on an edge counts."""

SATURATION = 4.0
"""Margins far beyond this are equal: how sure one pixel is must not decide for its neighbors."""


def edge_aligned(margin_HW: np.ndarray, image_HW: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) float32: a margin whose changes follow the edges of a slice. image: standardized; radius: in pixels.

    Margins come back within -4 atanh(0.999) and 4 atanh(0.999), about 15.

    >>> edge_aligned(np.ones((4, 4), np.float32), np.eye(4, dtype=np.float32), 1).round(3).max()
    np.float32(1.0)
    """

    def mean(values_HW: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        return cv2.boxFilter(values_HW, -1, (side, side), borderType=cv2.BORDER_REFLECT)

    image_HW = image_HW.astype(np.float32)
    score_HW = np.tanh(margin_HW.astype(np.float32) / SATURATION)
    grey_HW, level_HW = mean(image_HW), mean(score_HW)
    variance_HW = mean(image_HW**2) - grey_HW**2
    slope_HW = (mean(image_HW * score_HW) - grey_HW * level_HW) / (variance_HW + CONTRAST)
    aligned_HW = mean(slope_HW) * image_HW + mean(level_HW - slope_HW * grey_HW)
    return SATURATION * np.arctanh(aligned_HW.clip(-0.999, 0.999))
