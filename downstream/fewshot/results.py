"""What a few-shot measurement yields: a score per row, scan and organ, and slices for pictures."""

# n slices of a scan, H, W pixels.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..volumes.volume import Volume
from .methods import Method

EXAMPLE_SLICES = 4
"""Slices of each scan that are stored for pictures."""


@dataclass(frozen=True, slots=True)
class ScanScore:
    """One scan, one organ, one row; a line of scans.csv. Dice 0..1.

    HD95 in mm, NaN if the predicted mask is empty (missed) or the scan's spacing is unknown. chosen: the features that
    the organ's support chose, empty where it had no choice.
    """

    row: str
    source: str
    compat: str
    components: str
    shots: int
    fold: int
    scan: str
    supports: str
    organ: str
    slices: int
    dice: float
    volume_dice: float
    volume_hd95: float
    missed: bool = False
    chosen: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ExampleSlices:
    """Some slices of a scan (n, H, W): image, labels predicted by the first row, ground truth; uint8."""

    scan: str
    slices: tuple[int, ...]
    image_nHW: np.ndarray
    predicted_nHW: np.ndarray
    truth_nHW: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class FewshotResults:
    """All scores, slices for pictures, seconds per scan by source, and what was left out and why.

    organs: class number -> name. methods: row -> its method, the main row first.
    """

    organs: Mapping[int, str]
    scores: tuple[ScanScore, ...]
    examples: tuple[ExampleSlices, ...]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    methods: Mapping[str, Method]

    def __repr__(self) -> str:
        return f"FewshotResults({len(self.scores)} scores, {len(self.examples)} scans)"


def example_slices(query: Volume, labels_ZHW: np.ndarray, organs: Mapping[int, str]) -> ExampleSlices:
    """Slices of a labeled scan with its predicted labels, evenly spaced over those that show an organ."""
    assert query.labels_ZHW is not None, f"{query.name} has no labels"
    truth_ZHW = np.where(np.isin(query.labels_ZHW, list(organs)), query.labels_ZHW, 0)
    labeled = np.flatnonzero(truth_ZHW.any(axis=(1, 2)))
    if not len(labeled):
        labeled = np.arange(len(truth_ZHW))
    places = ((np.arange(EXAMPLE_SLICES) + 0.5) * len(labeled) / EXAMPLE_SLICES).astype(int)
    slices = np.unique(labeled[places])
    return ExampleSlices(
        query.name,
        tuple(map(int, slices)),
        query.image_ZHW[slices].astype(np.uint8),
        labels_ZHW[slices],
        truth_ZHW[slices].astype(np.uint8),
    )
