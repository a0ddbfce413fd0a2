"""Which connected parts of a predicted mask are kept: the most confident one, as many as the support shows, or all.

Ayzenberg et al., arXiv 2403.03273, keep one, which costs an organ that a slice shows in several parts (two
kidneys) all but one of them.

H x W pixels of a slice, J components, N support slices.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from ....platform.core.errors import ConfigError, DataError

Keep: TypeAlias = Literal[1, "n", "all"]

TOUCHING = np.ones((3, 3), bool)
"""Pixels that meet at a corner belong together (8-connectivity)."""


def keep_components(
    mask_HW: np.ndarray, score_HW: np.ndarray, keep: Keep = "n", n: int | None = None
) -> np.ndarray:
    """(H, W) bool: the mask without the components that are less sure than the best 1 or n, or as it is (`all`).

    score: (H, W) probability of the organ, 0..1. `n` is `count_components` of the support. Of two that are equally
    sure, the one whose first pixel comes first in reading order wins. Raises ConfigError for another `keep` or
    where `n` is asked for and not given, DataError for shapes that differ and scores that are not finite.

    >>> mask = np.array([[1, 0, 1, 0, 1]])
    >>> keep_components(mask, np.array([[0.7, 0.0, 0.9, 0.0, 0.6]]), "n", n=2).astype(int)
    array([[1, 0, 1, 0, 0]])
    """
    if keep == "all":
        return np.asarray(mask_HW).astype(bool)
    most = {1: 1, "n": n}.get(keep)
    if most is None or most < 1:
        raise ConfigError(
            f"keep {keep!r} with n = {n}; give 1, 'all', or 'n' with the support's number of parts"
        )
    part_HW, confidence_J = confidences(mask_HW, score_HW)
    best_J = np.argsort(-confidence_J, kind="stable")[:most]
    return np.isin(part_HW, best_J + 1)


def confidences(mask_HW: np.ndarray, score_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) component numbers, 0 outside, and (J,) how sure each of components 1 .. J is.

    conf_j = sum of the organ's probability over component j / (pixels of the whole mask + 1e-6): size counts as
    much as certainty. Raises DataError as `keep_components` does.
    """
    from scipy.ndimage import label

    mask_HW, score_HW = np.asarray(mask_HW).astype(bool), np.asarray(score_HW, np.float64)
    if mask_HW.ndim != 2 or mask_HW.shape != score_HW.shape:
        raise DataError(f"mask {mask_HW.shape} and score {score_HW.shape} must be of one slice, (H, W) both")
    if not np.isfinite(score_HW).all():
        raise DataError("scores that are not finite: look at the features' images for NaN or infinity")
    part_HW, count = label(mask_HW, TOUCHING)
    sums_J = np.bincount(part_HW.ravel(), score_HW.ravel(), minlength=count + 1)[1:]
    return part_HW, sums_J / (mask_HW.sum() + 1e-6)


def count_components(masks_NHW: np.ndarray) -> int:
    """n of `keep_components`: the most parts in which one of the support slices (N, H, W) shows the organ, at least 1.

    Counted in the slices that answer for a part of the body, not over the scan: components are cut slice by slice, and
    an organ that is one body in three dimensions (the liver) may be two in a slice, as two kidneys may be one. So n
    differs between the three parts of a scan.

    >>> count_components(np.array([[[1, 0, 1], [0, 0, 0], [0, 1, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]]]))
    3
    """
    from scipy.ndimage import label

    masks_NHW = np.asarray(masks_NHW).astype(bool)
    if masks_NHW.ndim != 3:
        raise DataError(f"support masks {masks_NHW.shape} must be (N, H, W)")
    return max([1, *(label(mask_HW, TOUCHING)[1] for mask_HW in masks_NHW)])
