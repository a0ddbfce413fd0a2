"""The published way to measure one-shot segmentation, and what it leaves out: folds, parts of an organ, Dice, HD95.

Ouyang et al., arXiv 2007.09886, section 4.1, as their released code and that of Ayzenberg et al., arXiv 2403.03273,
have it. It tells each query slice from which third of the organ it is, by the query's own truth, and scores no slice
without the organ; beside it stands what a reader of a new scan can have, the whole volume.
"""

# Z slices of a scan, H, W rows and columns; N scans, O organs, R resamples.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ....platform.core.errors import ConfigError, DataError

PARTS = 3
"""An organ is cut into this many parts along the body; each has a support slice of its own."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Scans that are asked, and the scans that teach."""

    number: int
    queries: tuple[str, ...]
    supports: tuple[str, ...]


def folds_of(names: Sequence[str], folds: int = 5, shots: int = 1) -> tuple[Fold, ...]:
    """Every scan is a query once; a fold's supports are the `shots` scans that follow its queries, in a circle.

    With five folds over 20 scans the separators are 0, 4, 8, 12, 16, 20, over 30 scans 0, 6, …, 30: validation is
    ids[sep_i : sep_i+1 + shots], the last of which support. Raises ConfigError where a support would be a query too.

    >>> folds_of("abcdefghij", 5)[4]
    Fold(number=4, queries=('i', 'j'), supports=('a',))
    """
    count = len(names)
    if not 1 < folds <= count:
        raise ConfigError(f"{folds} folds of {count} labelled scans; choose 2 to {count} folds")
    separators = [number * count // folds for number in range(folds + 1)]
    longest = max(np.diff(separators))
    if shots < 1 or longest + shots > count:
        raise ConfigError(
            f"{shots} shots and {longest} queries of {count} scans; choose 1 to {count - longest} shots"
        )
    return tuple(
        Fold(
            number,
            tuple(names[start:end]),
            tuple(names[place % count] for place in range(end, end + shots)),
        )
        for number, (start, end) in enumerate(pairwise(separators))
    )


def support_slices(mask_ZHW: np.ndarray) -> tuple[int, ...]:
    """Slices that teach the three parts: those at 1/6, 1/2 and 5/6 of all slices with the organ, from the feet up.

    Raises DataError for an empty mask.

    >>> support_slices(np.ones((12, 1, 1)))
    (2, 6, 10)
    """
    labelled = np.flatnonzero(np.asarray(mask_ZHW).any(axis=(1, 2)))
    if not len(labelled):
        raise DataError("the support's mask is empty; choose a scan that shows the organ")
    # In whole numbers: 5/6 of 6 slices is slice 5 of them.
    return tuple(int(labelled[(2 * part + 1) * len(labelled) // (2 * PARTS)]) for part in range(PARTS))


def part_of(z: int, first: int, last: int) -> int:
    """Third of first..last that slice z belongs to, 0, 1 or 2; the nearest for slices beyond. One slice: its middle.

    >>> [part_of(z, 10, 16) for z in (0, 10, 12, 14, 16, 30)]
    [0, 0, 1, 2, 2, 2]
    """
    if first == last:
        return PARTS // 2
    return min(max((z - first) * PARTS // (last - first), 0), PARTS - 1)


def told_parts(mask_ZHW: np.ndarray) -> dict[int, int]:
    """Slice -> part for the protocol's slices, first to last of the query's own truth; none for an empty mask."""
    labelled = np.flatnonzero(np.asarray(mask_ZHW).any(axis=(1, 2)))
    if not len(labelled):
        return {}
    first, last = int(labelled[0]), int(labelled[-1])
    return {z: part_of(z, first, last) for z in range(first, last + 1)}


def guessed_parts(slices: int, supports: Sequence[np.ndarray], reach: float) -> dict[int, int]:
    """Slice -> part for a scan of `slices` slices of which no truth is known.

    supports: masks (Z, H, W), each of its own Z. The organ is taken to lie as far up the scan as it does in the
    supports, on average, all lengths in parts of a whole scan. Slices beyond by more than `reach` of the organ's
    length are not asked: it is not looked for in them. Raises DataError for an empty mask.

    >>> guessed_parts(8, [np.array([0, 1, 1, 1, 1, 1, 1, 0])[:, None, None]], reach=0.0)
    {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2}
    """
    spans = []
    for mask_ZHW in supports:
        labelled = np.flatnonzero(np.asarray(mask_ZHW).any(axis=(1, 2)))
        if not len(labelled):
            raise DataError("the support's mask is empty; choose a scan that shows the organ")
        spans.append((labelled[0] / len(mask_ZHW), (labelled[-1] + 1) / len(mask_ZHW)))
    first, last = np.mean(spans, axis=0)
    places = (np.arange(slices) + 0.5) / slices
    parts = np.clip(np.floor((places - first) * PARTS / (last - first)), 0, PARTS - 1).astype(int)
    margin = reach * (last - first)
    asked = (places >= first - margin) & (places <= last + margin)
    return {int(z): int(parts[z]) for z in np.flatnonzero(asked)}


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all voxels; NaN where both are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(found & truth)) / total if total else float("nan")


def hd95(found_ZHW: np.ndarray, truth_ZHW: np.ndarray, spacing: Sequence[float]) -> float:
    """How far the surfaces of two masks lie apart, mm: the larger of both ways' 95th percentiles.

    A surface is all voxels of a mask with a face towards what is outside it, the scan's edge included; distances run
    between voxel centres. spacing: mm (z, y, x). NaN where a mask is empty.
    """
    from scipy.spatial import cKDTree

    points = [surface_of(mask_ZHW) * np.asarray(spacing, np.float64) for mask_ZHW in (found_ZHW, truth_ZHW)]
    if not len(points[0]) or not len(points[1]):
        return float("nan")
    # A tree of surface voxels gives what a distance transform does, and asks no voxel in between; a plain one is the
    # quicker for points of a grid (measured).
    here, there = (cKDTree(own, balanced_tree=False, compact_nodes=False) for own in points)
    ways = [there.query(points[0])[0], here.query(points[1])[0]]
    return float(max(np.percentile(way, 95) for way in ways))


def surface_of(mask_ZHW: np.ndarray) -> np.ndarray:
    """(points, 3) int: voxels of a mask with a face towards what is outside it, the scan's edge included.

    >>> len(surface_of(np.ones((3, 3, 3), bool))), len(surface_of(np.zeros((3, 3, 3), bool)))
    (26, 0)
    """
    from scipy.ndimage import binary_erosion, find_objects

    # Of a whole scan an organ fills little; only its bounding box is looked at.
    boxes = find_objects(mask_ZHW.astype(np.uint8))
    if not boxes:
        return np.empty((0, 3), int)
    part = mask_ZHW[boxes[0]]
    return np.argwhere(part & ~binary_erosion(part)) + [side.start for side in boxes[0]]


def intervals(
    values_NO: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(means (O + 1,), their 95 % interval) over scans, NaN left out; the last is the mean of the organs' means.

    All organs of a scan are drawn together. The interval is NaN for fewer than five scans.
    """
    from ....platform.measure.metrics import bootstrap_interval

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
        nothing = np.full(mean_O.shape, np.nan)
        return mean_O, (nothing, nothing)
    return mean_O, bootstrap_interval(means, [str(n) for n in range(len(values_NO))], resamples, seed)
