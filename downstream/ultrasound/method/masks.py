"""Masks between the patch grid and the image: enlarging, shares of patches, refinement, Dice and IoU.

R x C the patch grid, M x W the pixels of an image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from ....platform.core.errors import DataError
from ...common.shapes import shape_text
from ..config import CosegmentConfig


class Coverage(NamedTuple):
    """Where the patches of a grid lie in an image, from its top left, in its pixels; fractions where the network's
    input has another size than the image.

    rows, columns: height and width of the part that the patches cover. row_margin, column_margin: half of what a patch
    is longer than the step to the next one; 0 where patches lie side by side. The patches' centers are a step apart,
    the first half a step from the margin.
    """

    rows: float
    columns: float
    row_margin: float = 0.0
    column_margin: float = 0.0

    @property
    def axes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(covered, margin) of the rows and of the columns."""
        return (self.rows, self.row_margin), (self.columns, self.column_margin)

    def centers(self, patch_P2: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """(P, 2): row and column of the centers of patches, in pixels counted from 0. patch_P2: in the grid."""
        covered_2, margin_2 = np.array(self.axes).T
        return margin_2 + (patch_P2 + 0.5) * ((covered_2 - 2 * margin_2) / grid) - 0.5


def enlarge(
    grid_RC: np.ndarray, height: int, width: int, covered: Coverage | None = None, outside: int = 0
) -> np.ndarray:
    """A mask or a map of clusters at image size, (height, width) of the same dtype, by nearest patch.

    covered: where the patches lie, side by side over all of the image by default. What lies beyond is `outside`.

    >>> enlarge(np.array([[True, False]]), 2, 5, covered=Coverage(2, 4)).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0]])
    """
    covered = covered or Coverage(height, width)
    if not (0 < covered.rows < height + 0.5 and 0 < covered.columns < width + 0.5):
        raise DataError(
            f"patches cover {covered.rows}x{covered.columns} pixels of an image of {height}x{width}; check sizes"
        )
    image_MW = np.full((height, width), outside, grid_RC.dtype)
    index = np.ix_(*map(_nearest_patch, (height, width), covered.axes, grid_RC.shape))
    image_MW[: index[0].size, : index[1].size] = grid_RC[index]
    return image_MW


def interpolate(values_RC: np.ndarray, height: int, width: int, covered: Coverage) -> np.ndarray:
    """A map of values at image size, (height, width) float64, linear between the centers of patches.

    Beyond the outer centers the value is that of the nearest patch; what no patch covers is 0.
    """
    rows_MR, columns_WC = map(_hat_weights, (height, width), covered.axes, values_RC.shape)
    image_MW = np.zeros((height, width))
    image_MW[: len(rows_MR), : len(columns_WC)] = rows_MR @ values_RC @ columns_WC.T
    return image_MW


def _hat_weights(side: int, axis: tuple[float, float], patches: int) -> np.ndarray:
    """(covered pixels, patches): what each patch weighs in each pixel; rows sum to 1."""
    place_M1 = _places(side, axis, patches)[:, None] - 0.5
    return (1 - np.abs(place_M1.clip(0, patches - 1) - np.arange(patches))).clip(min=0)


def _nearest_patch(side: int, axis: tuple[float, float], patches: int) -> np.ndarray:
    """The patch whose center is nearest to that of each covered pixel."""
    return np.clip(np.floor(_places(side, axis, patches)), 0, patches - 1).astype(np.int64)


def _places(side: int, axis: tuple[float, float], patches: int) -> np.ndarray:
    """The center of each covered pixel in units of patches; a patch's own center is at its number + 0.5."""
    covered, margin = axis
    centers = np.arange(side) + 0.5
    return (centers[centers < covered] - margin) * patches / (covered - 2 * margin)


def patch_shares(mask_MW: np.ndarray, grid: tuple[int, int], covered: Coverage) -> np.ndarray:
    """The share of each patch's area that a mask covers: (R, C) float32, 0..1; pixels without a patch are ignored.

    Patches that overlap count what they share each for itself.
    """
    rows_RM, columns_CW = map(_overlaps, mask_MW.shape, covered.axes, grid)
    area_RC = rows_RM.sum(axis=1)[:, None] * columns_CW.sum(axis=1)
    # The product of the lengths is exact for whole pixels: half a patch is half.
    return (rows_RM @ mask_MW.astype(np.float64) @ columns_CW.T / area_RC).astype(np.float32).clip(0, 1)


def _overlaps(side: int, axis: tuple[float, float], patches: int) -> np.ndarray:
    """(patches, side): the length of each pixel that lies in each patch, in pixels."""
    covered, margin = axis
    step = (covered - 2 * margin) / patches
    start_P1 = step * np.arange(patches)[:, None]
    end_P1, pixel_S = start_P1 + step + 2 * margin, np.arange(side)
    return (np.minimum(end_P1, pixel_S + 1) - np.maximum(start_P1, pixel_S)).clip(min=0)


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
