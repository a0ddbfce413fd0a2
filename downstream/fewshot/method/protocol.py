"""The published protocol of one-shot segmentation and what it leaves out: folds, parts of an organ, Dice, HD95.

Ouyang et al., arXiv 2007.09886, section 4.1, as implemented in their released code and in that of Ayzenberg et al.,
arXiv 2403.03273. It takes from the query's own ground truth to which third of the organ a slice belongs, and scores no
slice without the organ. `parts_from_supports` does without the ground truth, for whole scans.
"""

# Z slices of a scan, H, W rows and columns; N scans, O organs, R resamples, P points.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ....platform.core.errors import ConfigError, DataError

PARTS = 3
"""An organ is divided into this many parts along the body; each has a support slice of its own."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Names of the query scans and of the support scans."""

    number: int
    queries: tuple[str, ...]
    supports: tuple[str, ...]


def cross_validation_folds(names: Sequence[str], folds: int = 5, shots: int = 1) -> tuple[Fold, ...]:
    """Every scan is a query once; a fold's supports are the `shots` scans that follow its queries, in a circle.

    With five folds over 20 scans the separators are 0, 4, 8, 12, 16, 20, over 30 scans 0, 6, …, 30: validation is
    ids[sep_i : sep_i+1 + shots], the last of which support. Raises ConfigError where a support would be a query too.

    >>> cross_validation_folds("abcdefghij", 5)[4]
    Fold(number=4, queries=('i', 'j'), supports=('a',))
    """
    count = len(names)
    if not 1 < folds <= count:
        raise ConfigError(f"{folds} folds of {count} labeled scans; choose 2 to {count} folds")
    separators = [number * count // folds for number in range(folds + 1)]
    longest = max(np.diff(separators))
    if shots < 1 or longest + shots > count:
        raise ConfigError(
            f"{shots} shots and {longest} queries of {count} scans; choose 1 to {count - longest} shots"
        )
    return tuple(
        Fold(
            number, tuple(names[start:end]), tuple(names[place % count] for place in range(end, end + shots))
        )
        for number, (start, end) in enumerate(pairwise(separators))
    )


# Parts of an organ -------------------------------------------------------------------------------


def support_slices(mask_ZHW: np.ndarray) -> tuple[int, ...]:
    """The support slice of each part: at 1/6, 1/2 and 5/6 of all slices with the organ, from the feet up.

    Raises DataError for an empty mask.

    >>> support_slices(np.ones((12, 1, 1)))
    (2, 6, 10)
    """
    slices = _support_extent(mask_ZHW)
    # In integers: 5/6 of 6 slices is slice 5 of them.
    return tuple(int(slices[(2 * part + 1) * len(slices) // (2 * PARTS)]) for part in range(PARTS))


def slice_part(z: int, first: int, last: int) -> int:
    """Third of first..last that slice z belongs to, 0, 1 or 2; the nearest for slices beyond. One slice: its middle.

    >>> [slice_part(z, 10, 16) for z in (0, 10, 12, 14, 16, 30)]
    [0, 0, 1, 2, 2, 2]
    """
    if first == last:
        return PARTS // 2
    return min(max((z - first) * PARTS // (last - first), 0), PARTS - 1)


def parts_from_truth(mask_ZHW: np.ndarray) -> dict[int, int]:
    """Slice -> part for the protocol: first to last slice of the query's own ground truth; empty for an empty mask."""
    slices = _slices_with(mask_ZHW)
    if not len(slices):
        return {}
    first, last = int(slices[0]), int(slices[-1])
    return {z: slice_part(z, first, last) for z in range(first, last + 1)}


def parts_from_supports(slices: int, supports: Sequence[np.ndarray], reach: float) -> dict[int, int]:
    """Slice -> part for a scan of `slices` slices without ground truth.

    supports: masks (Z, H, W), each of its own Z. The organ is assumed as far up the scan as in the supports, on
    average, relative to the length of the scan. Slices further beyond than `reach`, as a share of the organ's length,
    are left out. Raises DataError for an empty mask.

    >>> parts_from_supports(8, [np.array([0, 1, 1, 1, 1, 1, 1, 0])[:, None, None]], reach=0.0)
    {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2}
    """
    spans = []
    for mask_ZHW in supports:
        first, last = organ_span(mask_ZHW)
        spans.append((first / len(mask_ZHW), last / len(mask_ZHW)))
    first, last = np.mean(spans, axis=0)
    return parts_of_span(slices, first, last, reach)


def organ_span(mask_ZHW: np.ndarray) -> tuple[int, int]:
    """First slice of a support's mask and the one behind its last. Raises DataError for an empty mask."""
    labeled = _support_extent(mask_ZHW)
    return int(labeled[0]), int(labeled[-1]) + 1


def parts_of_span(slices: int, first: float, last: float, reach: float) -> dict[int, int]:
    """Slice -> part for a scan of `slices` slices whose organ lies from `first` to `last`, as shares of its length.

    Slices beyond by more than `reach`, as a share of the organ's length, are left out.

    >>> parts_of_span(8, 0.125, 0.875, reach=0.2)
    {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2, 7: 2}
    """
    centers = (np.arange(slices) + 0.5) / slices
    parts = np.clip(np.floor((centers - first) * PARTS / (last - first)), 0, PARTS - 1).astype(int)
    margin = reach * (last - first)
    within = (centers >= first - margin) & (centers <= last + margin)
    return {int(z): int(parts[z]) for z in np.flatnonzero(within)}


def _slices_with(mask_ZHW: np.ndarray) -> np.ndarray:
    """Numbers of the slices in which a mask is not empty."""
    return np.flatnonzero(np.asarray(mask_ZHW).any(axis=(1, 2)))


def _support_extent(mask_ZHW: np.ndarray) -> np.ndarray:
    """The same of a support. Raises DataError for an empty mask."""
    slices = _slices_with(mask_ZHW)
    if not len(slices):
        raise DataError("the support's mask is empty; choose a scan that shows the organ")
    return slices


# Metrics -----------------------------------------------------------------------------------------


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all voxels of two bool masks; NaN if both are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(predicted & truth)) / total if total else float("nan")


def hd95(predicted_ZHW: np.ndarray, truth_ZHW: np.ndarray, steps: np.ndarray) -> float:
    """95th percentile Hausdorff distance in mm: the larger one of both directions; NaN if a mask is empty.

    A surface is all voxels of a mask with a face towards the outside, the scan's edge included; distances are between
    voxel centers. steps: (3, 3) mm, its rows lead to the next slice, row and column (`Volume.steps`).
    """
    from scipy.spatial import cKDTree

    predicted_P3, truth_P3 = (
        _surface_voxels(mask_ZHW) @ np.asarray(steps, np.float64) for mask_ZHW in (predicted_ZHW, truth_ZHW)
    )
    if not len(predicted_P3) or not len(truth_P3):
        return float("nan")
    # A tree of surface voxels gives what a distance transform does without visiting the voxels between; an unbalanced
    # one is faster for the points of a grid (measured).
    predicted_tree, truth_tree = (
        cKDTree(points_P3, balanced_tree=False, compact_nodes=False) for points_P3 in (predicted_P3, truth_P3)
    )
    distances = truth_tree.query(predicted_P3)[0], predicted_tree.query(truth_P3)[0]
    return float(max(np.percentile(distance_P, 95) for distance_P in distances))


def _surface_voxels(mask_ZHW: np.ndarray) -> np.ndarray:
    """(P, 3) int: voxels of a mask with a face towards the outside, the scan's edge included.

    >>> len(_surface_voxels(np.ones((3, 3, 3), bool))), len(_surface_voxels(np.zeros((3, 3, 3), bool)))
    (26, 0)
    """
    from scipy.ndimage import binary_erosion, find_objects

    # An organ fills little of a scan: its bounding box is enough.
    boxes = find_objects(mask_ZHW.astype(np.uint8))
    if not boxes:
        return np.empty((0, 3), int)
    part = mask_ZHW[boxes[0]]
    return np.argwhere(part & ~binary_erosion(part)) + [side.start for side in boxes[0]]


def bootstrap_intervals(
    values_NO: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(means (O + 1,), their 95 % interval) over scans, NaN left out; the last is the mean of the organs' means.

    Scans are resampled with all their organs. The interval is NaN for fewer than five scans.
    """
    from ....platform.measure.bootstrap import bootstrap_interval

    known_NO = ~np.isnan(values_NO)
    filled_NO = np.where(known_NO, values_NO, 0.0)

    def means(weight_RN: np.ndarray) -> np.ndarray:
        count_RO = weight_RN @ known_NO
        mean_RO = np.divide(
            weight_RN @ filled_NO, count_RO, out=np.full(count_RO.shape, np.nan), where=count_RO > 0
        )
        some_R1 = (count_RO > 0).any(axis=1, keepdims=True)
        all_R1 = np.where(some_R1, np.nan_to_num(mean_RO).sum(axis=1, keepdims=True), np.nan)
        all_R1 /= np.maximum((count_RO > 0).sum(axis=1, keepdims=True), 1)
        return np.concatenate([mean_RO, all_R1], axis=1)

    [mean_O] = means(np.ones((1, len(values_NO))))
    if len(values_NO) < 5:
        unknown = np.full(mean_O.shape, np.nan)
        return mean_O, (unknown, unknown)
    return mean_O, bootstrap_interval(means, [str(n) for n in range(len(values_NO))], resamples, seed)
