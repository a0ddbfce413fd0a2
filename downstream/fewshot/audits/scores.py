"""The score of one slice of an audit, and the number of components of its mask."""

# H, W rows and columns of a slice.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import DataError
from ...volumes.volume import Volumes
from ..method.components import CONNECTIVITY
from .targets import AuditTarget


@dataclass(frozen=True, slots=True)
class SliceScore:
    """One slice of one organ in one row; a line of slices.csv.

    parts, true_parts: components of the predicted and the true mask. found, true, overlap: their pixels.
    """

    row: str
    fold: int
    scan: str
    organ: str
    slice: int
    parts: int
    true_parts: int
    found: int
    true: int
    overlap: int
    dice: float
    """Of this slice alone, 0..1; 1 if both masks are empty."""


def slice_score(row: str, target: AuditTarget, z: int, mask_HW: np.ndarray) -> SliceScore:
    """The score of a predicted mask of one slice."""
    truth_HW = target.truth[z]
    found, true = int(np.count_nonzero(mask_HW)), int(np.count_nonzero(truth_HW))
    overlap = int(np.count_nonzero(mask_HW & truth_HW))
    return SliceScore(
        row=row,
        fold=target.fold.number,
        scan=target.query.name,
        organ=target.support.name,
        slice=z,
        parts=component_count(mask_HW),
        true_parts=component_count(truth_HW),
        found=found,
        true=true,
        overlap=overlap,
        dice=2 * overlap / (found + true) if found + true else 1.0,
    )


def component_count(mask_HW: np.ndarray) -> int:
    """Number of 8-connected components; 0 for an empty mask."""
    from scipy.ndimage import label

    return int(label(mask_HW, CONNECTIVITY)[1])


def measured_organs(
    scores: Sequence[SliceScore], volumes: Volumes, left_out: Mapping[str, str]
) -> tuple[str, ...]:
    """Organs with scores, in the order of the classes. Raises DataError if there are none."""
    if not scores:
        raise DataError(f"{volumes.folder}: nothing can be measured; {next(iter(left_out.values()), '')}")
    organs = {score.organ for score in scores}
    return tuple(name for name in volumes.classes.values() if name in organs)
