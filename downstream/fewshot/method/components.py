"""Which connected components of a predicted mask are kept: the most confident, as many as the support shows, or all.

Ayzenberg et al., arXiv 2403.03273, section 3.3, keep one, which costs an organ that a slice shows in several pieces
(two kidneys) all but one of them.
"""

# H x W pixels of a slice, J components, N support slices.

from __future__ import annotations

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from .config import Components

CONNECTIVITY = np.ones((3, 3), bool)
"""Structuring element: pixels that meet at a corner belong together (8-connectivity)."""


def keep_components(
    mask_HW: np.ndarray, probability_HW: np.ndarray, keep: Components = "n", n: int | None = None
) -> np.ndarray:
    """(H, W) bool: the most confident component of the mask (`1`), the `n` most confident, or all.

    probability: of the organ, (H, W), 0..1. `n` is `count_components` of the support. Of two equally confident
    components, the one whose first pixel comes first in reading order wins. Raises ConfigError for another `keep`, or
    for `n` without a number; DataError for shapes that differ and non-finite probabilities.

    >>> mask = np.array([[1, 0, 1, 0, 1]])
    >>> keep_components(mask, np.array([[0.7, 0.0, 0.9, 0.0, 0.6]]), "n", n=2).astype(int)
    array([[1, 0, 1, 0, 0]])
    """
    if keep == "all":
        return np.asarray(mask_HW).astype(bool)
    most = {"1": 1, "n": n}.get(keep)
    if most is None or most < 1:
        raise ConfigError(
            f"keep {keep!r} with n = {n}; give '1', 'all', or 'n' with the support's number of components"
        )
    component_HW, confidence_J = component_confidences(mask_HW, probability_HW)
    best_J = np.argsort(-confidence_J, kind="stable")[:most]
    return np.isin(component_HW, best_J + 1)


def component_confidences(mask_HW: np.ndarray, probability_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) component numbers, 0 outside, and (J,) confidences of components 1 .. J.

    conf_j = sum of the organ's probability over component j / (pixels of the whole mask + 1e-6): size counts as much as
    probability (arXiv 2403.03273, section 3.3). Raises DataError as `keep_components` does.
    """
    from scipy.ndimage import label

    mask_HW, probability_HW = np.asarray(mask_HW).astype(bool), np.asarray(probability_HW, np.float64)
    if mask_HW.ndim != 2 or mask_HW.shape != probability_HW.shape:
        raise DataError(
            f"mask {mask_HW.shape} and probability {probability_HW.shape} must be of one slice, (H, W) both"
        )
    if not np.isfinite(probability_HW).all():
        raise DataError("non-finite scores: look at the features' images for NaN or infinity")
    component_HW, count = label(mask_HW, CONNECTIVITY)
    sums_J = np.bincount(component_HW.ravel(), probability_HW.ravel(), minlength=count + 1)[1:]
    return component_HW, sums_J / (mask_HW.sum() + 1e-6)


def count_components(masks_NHW: np.ndarray) -> int:
    """The most components in which one of the support slices (N, H, W) shows the organ, at least 1.

    Counted in the support slices of one part of the organ, not over the scan: components are cut slice by slice, and an
    organ that is one body in three dimensions (the liver) may be two in a slice, as two kidneys may be one. So the
    number differs between the three parts of a scan.

    >>> count_components(np.array([[[1, 0, 1], [0, 0, 0], [0, 1, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]]]))
    3
    """
    from scipy.ndimage import label

    masks_NHW = np.asarray(masks_NHW).astype(bool)
    if masks_NHW.ndim != 3:
        raise DataError(f"support masks {masks_NHW.shape} must be (N, H, W)")
    return max([1, *(label(mask_HW, CONNECTIVITY)[1] for mask_HW in masks_NHW)])
