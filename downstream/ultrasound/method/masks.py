"""Masks between the patch grid and the image: enlarging, shares of patches, refinement, Dice and IoU.

R x C the patch grid, M x W the pixels of an image.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ....platform.core.errors import DataError
from ...common.shapes import shape_text
from ..config import CosegmentConfig


def enlarge(
    grid_RC: np.ndarray, height: int, width: int, covered: tuple[float, float] | None = None, outside: int = 0
) -> np.ndarray:
    """A mask or a map of clusters at image size, (height, width) of the same dtype, by nearest patch.

    covered: pixels from the top and from the left that the patches lie on, all by default; they may be fractions,
    where the network's input has another size than the image. What lies beyond is `outside`.

    >>> enlarge(np.array([[True, False]]), 2, 5, covered=(2, 4)).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0]])
    """
    rows, columns = covered or (height, width)
    if not (0 < rows < height + 0.5 and 0 < columns < width + 0.5):
        raise DataError(f"patches cover {rows}x{columns} pixels of an image of {height}x{width}; check sizes")
    image_MW = np.full((height, width), outside, grid_RC.dtype)
    index = np.ix_(*map(_nearest_patch, (height, width), (rows, columns), grid_RC.shape))
    image_MW[: index[0].size, : index[1].size] = grid_RC[index]
    return image_MW


def _nearest_patch(side: int, covered: float, patches: int) -> np.ndarray:
    """The patch that the center of each covered pixel falls into, the patches laid side by side."""
    centers = np.arange(side) + 0.5
    return np.minimum((centers[centers < covered] * patches / covered).astype(np.int64), patches - 1)


def patch_shares(mask_MW: np.ndarray, grid: tuple[int, int], covered: tuple[float, float]) -> np.ndarray:
    """The share of each patch's area that a mask covers: (R, C) float32, 0..1; pixels without a patch are ignored.

    covered: as in `enlarge`.
    """
    inside = mask_MW[: round(covered[0]), : round(covered[1])].astype(np.float32)
    # Rounded area weights can add up to a little more than the whole.
    return cv2.resize(inside, (grid[1], grid[0]), interpolation=cv2.INTER_AREA).clip(0, 1)


def refine(mask_MW: np.ndarray, pixels_MW: np.ndarray, config: CosegmentConfig) -> np.ndarray:
    """The mask with its border moved to the image's edges by GrabCut (Rother et al. 2004); unchanged for `none`.

    pixels: (M, W) gray, uint8. As in Amir et al. the mask is fixed further than `band` pixels from its border. A mask
    of nothing or everything has no border and is returned as it is. Raises DataError for another size.
    """
    if pixels_MW.shape != mask_MW.shape:
        raise DataError(
            f"a mask of {shape_text(mask_MW.shape)} for a picture of {shape_text(pixels_MW.shape)}; make them one size"
        )
    if config.refine == "none" or mask_MW.all() or not mask_MW.any():
        return mask_MW
    window = np.ones((2 * config.band + 1,) * 2, np.uint8)
    inside_MW = cv2.erode(mask_MW.astype(np.uint8), window) > 0
    outside_MW = cv2.dilate(mask_MW.astype(np.uint8), window) == 0
    if not outside_MW.any():
        outside_MW = ~mask_MW  # GrabCut must see some background
    label_MW = np.select([inside_MW, outside_MW], [cv2.GC_FGD, cv2.GC_BGD], cv2.GC_PR_FGD).astype(np.uint8)
    background, foreground = np.zeros((2, 1, 65))  # its two mixtures, five Gaussians each
    # GrabCut draws from OpenCV's generator, which the whole process shares and whose state cannot be read.
    cv2.setRNGSeed(config.seed)
    cv2.grabCut(
        np.repeat(pixels_MW[:, :, None], 3, axis=2),
        label_MW,
        (0, 0, 1, 1),  # not used with a mask
        background,
        foreground,
        5,
        cv2.GC_INIT_WITH_MASK,
    )
    return (label_MW == cv2.GC_FGD) | (label_MW == cv2.GC_PR_FGD)


def dice_and_iou(prediction_MW: np.ndarray, truth_MW: np.ndarray) -> tuple[float, float]:
    """(Dice, IoU) of two masks of one image. Both empty: 1; one of them empty: 0. Raises DataError for two sizes.

    >>> dice_and_iou(np.array([[1, 1, 0]]), np.array([[0, 1, 1]]))
    (0.5, 0.3333333333333333)
    """
    prediction_MW, truth_MW = np.asarray(prediction_MW, bool), np.asarray(truth_MW, bool)
    if prediction_MW.shape != truth_MW.shape:
        raise DataError(
            f"a mask of {shape_text(prediction_MW.shape)} for a truth of {shape_text(truth_MW.shape)}; "
            "make them one size"
        )
    both, total = int((prediction_MW & truth_MW).sum()), int(prediction_MW.sum()) + int(truth_MW.sum())
    dice, iou = (2 * both / total, both / (total - both)) if total else (1.0, 1.0)
    assert math.isclose(iou, dice / (2 - dice))
    return dice, iou
