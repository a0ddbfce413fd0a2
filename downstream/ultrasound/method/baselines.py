"""What every table of Dice needs for comparison: an oracle that knows the truth, and masks that ignore the image.

I images, R x C the patch grid of one, K clusters, M x W the pixels of an image; S or X sets of clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import DataError
from .cosegmentation import Cosegmentation
from .masks import enlarge, size_text

EXACT = 16
"""Most clusters of which the oracle tries every subset: 65,536 of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """The clusters that somebody who knows the truth would call foreground: an upper bound, not a prediction.

    masks: per image (R, C) bool, on the patch grid. dice: mean over the images at their own size, before any
    refinement. exact: every subset of the clusters was tried.
    """

    foreground: tuple[int, ...]
    masks: tuple[np.ndarray, ...]
    dice: float
    exact: bool

    def __repr__(self) -> str:
        return f"Oracle({len(self.masks)} images, {len(self.foreground)} clusters, Dice {self.dice:.3f})"


def oracle_clusters(
    cosegmentation: Cosegmentation,
    truths: Sequence[np.ndarray],
    covered: Sequence[tuple[float, float]] | None = None,
) -> Oracle:
    """The set of clusters with the largest mean Dice over the images.

    truths: per image (M, W) bool, with covered as in `enlarge`: Dice counts pixels; or (R, C) float, the share of
    each patch that the truth lies on: Dice counts patches. Of up to EXACT clusters every subset is tried; of more,
    one cluster at a time is taken in or out, the best first, as long as that helps. The empty set is chosen only
    where it is best. Raises DataError where a truth is missing.
    """
    k, count = len(cosegmentation.votes), len(cosegmentation.clusters)
    sizes = covered or [None] * count
    if not len(truths) == len(sizes) == count:
        raise DataError(f"{len(truths)} truths and {len(sizes)} sizes for {count} images; give one of each")
    counts = [_areas(*each, k) for each in zip(cosegmentation.clusters, truths, sizes, strict=True)]
    area_KI, both_KI, truth_I = (np.stack(column, axis=-1) for column in zip(*counts, strict=True))
    chosen, dice = (_best_subset if k <= EXACT else _grown_subset)(area_KI, both_KI, truth_I)
    masks = tuple(np.isin(cluster_RC, chosen) for cluster_RC in cosegmentation.clusters)
    return Oracle(tuple(chosen), masks, dice, exact=k <= EXACT)


def _areas(
    cluster_RC: np.ndarray, truth: np.ndarray, covered: tuple[float, float] | None, k: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(area of each cluster (K,), its area inside the truth (K,), area of the truth) in one image."""
    labels, inside = cluster_RC, np.asarray(truth, np.float64)
    if np.asarray(truth).dtype == bool:
        height, width = inside.shape
        labels = enlarge(cluster_RC, height, width, covered, outside=k)
    if labels.shape != inside.shape:
        raise DataError(
            f"shares of {size_text(inside)} patches for a grid of {size_text(labels)}; give one for each patch"
        )
    area_K, both_K = (np.bincount(labels.ravel(), part, k + 1)[:k] for part in (None, inside.ravel()))
    return area_K, both_K, inside.sum()


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
