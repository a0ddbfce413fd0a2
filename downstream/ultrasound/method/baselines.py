"""Baselines and bounds of every table of Dice: an oracle that knows the truth, and masks that ignore the image.

I images, R x C the patch grid of one, K clusters, M x W the pixels of an image; S or X sets of clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....platform.core.errors import DataError
from .masks import Coverage, enlarge

EXACT = 16
"""Most clusters of which the oracle tries every subset: 65,536 of them."""


def oracle_clusters(
    clusters: Sequence[np.ndarray],
    k: int,
    truths: Sequence[np.ndarray],
    covered: Sequence[Coverage | None],
) -> tuple[list[int], float]:
    """(the set of clusters with the largest mean Dice over the images, that Dice before any refinement).

    clusters: per image (R, C), of 0..k-1. truths: per image (M, W) bool. covered: per image, as in `enlarge`. Of up
    to EXACT clusters every subset is tried; of more, one cluster at a time is taken in or out, the best first, as long
    as that helps. The empty set is chosen only where it is best. It is an upper bound, not a prediction. Raises
    DataError where a truth is missing.
    """
    if not len(truths) == len(covered) == len(clusters):
        raise DataError(
            f"{len(truths)} truths and {len(covered)} sizes for {len(clusters)} images; give one of each"
        )
    areas = [_areas(*each, k) for each in zip(clusters, truths, covered, strict=True)]
    area_KI, both_KI, truth_I = (np.stack(column, axis=-1) for column in zip(*areas, strict=True))
    return (_best_subset if k <= EXACT else _grown_subset)(area_KI, both_KI, truth_I)


def _areas(
    cluster_RC: np.ndarray, truth_MW: np.ndarray, covered: Coverage | None, k: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(area of each cluster (K,), its area inside the truth (K,), area of the truth) in pixels of one image."""
    height, width = truth_MW.shape
    label = enlarge(cluster_RC, height, width, covered, outside=k).ravel()
    truth = truth_MW.ravel().astype(np.float64)
    return np.bincount(label, minlength=k + 1)[:k], np.bincount(label, truth, k + 1)[:k], truth.sum()


def _mean_dice(area_XI: np.ndarray, both_XI: np.ndarray, truth_I: np.ndarray) -> np.ndarray:
    """(X,) mean Dice of X sets of clusters, from their areas and those inside the truth."""
    total_XI = area_XI + truth_I
    dice_XI = np.divide(2 * both_XI, total_XI, out=np.ones_like(total_XI), where=total_XI > 0)
    return dice_XI.mean(axis=1)


def _best_subset(area_KI: np.ndarray, both_KI: np.ndarray, truth_I: np.ndarray) -> tuple[list[int], float]:
    """Subset s holds cluster k where bit k of s is set; the sums of all of them by doubling."""
    area_SI = both_SI = np.zeros((1, len(truth_I)))
    for area_I, both_I in zip(area_KI, both_KI, strict=True):
        area_SI, both_SI = (
            np.concatenate([sum_SI, sum_SI + one_I])
            for sum_SI, one_I in ((area_SI, area_I), (both_SI, both_I))
        )
    dice_S = _mean_dice(area_SI, both_SI, truth_I)
    best = 1 + int(dice_S[1:].argmax())
    if dice_S[0] > dice_S[best]:
        best = 0
    return [k for k in range(len(area_KI)) if best >> k & 1], float(dice_S[best])


def _grown_subset(area_KI: np.ndarray, both_KI: np.ndarray, truth_I: np.ndarray) -> tuple[list[int], float]:
    """Greedy search; row k of `flipped` is the current set with cluster k taken in or out."""
    taken_K, dice = np.zeros(len(area_KI)), -1.0
    while True:
        flipped_KK = np.abs(taken_K - np.eye(len(area_KI)))
        dice_K = _mean_dice(flipped_KK @ area_KI, flipped_KK @ both_KI, truth_I)
        if dice_K.max() <= dice:
            return np.flatnonzero(taken_K).tolist(), dice
        taken_K, dice = flipped_KK[dice_K.argmax()], float(dice_K.max())


def mean_of_other_masks(truths: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """A baseline that never looks at the image: per image, (M, W) bool, what at least half of the other truths hold.

    It uses labels. Truths of other sizes are resized by nearest pixel; for an image alone the mask is empty.

    >>> [mask.astype(int).tolist() for mask in mean_of_other_masks([np.eye(2), np.ones((2, 2)), np.zeros((2, 2))])]
    [[[1, 1], [1, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]]
    """
    masks = []
    for image, truth_MW in enumerate(truths):
        height, width = truth_MW.shape
        votes_MW = np.zeros(truth_MW.shape, np.int64)
        for other in (*truths[:image], *truths[image + 1 :]):
            votes_MW += enlarge(np.asarray(other, bool), height, width)
        masks.append((2 * votes_MW >= len(truths) - 1) & (len(truths) > 1))
    return tuple(masks)
