"""The support set of an organ: labeled scans, and the slices of them that stand for each third of the organ."""

# Z slices of a scan, N supports, H, W pixels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ...volumes.volume import Volume, Volumes
from .protocol import support_slices


@dataclass(frozen=True, slots=True, eq=False)
class SupportSet:
    """One organ (class number and name) in the scans that show it. slices: for every scan, its slice of each part.

    fold: number in the protocol, where there are folds; it selects the encoder that has not seen the fold's scans.
    """

    organ: int
    name: str
    volumes: tuple[Volume, ...]
    slices: tuple[tuple[int, ...], ...]
    fold: int = 0

    def part_masks(self, part: int) -> np.ndarray:
        """(N, H, W) bool: the organ in the support slices of one part."""
        pairs = zip(self.volumes, self.slices, strict=True)
        return np.concatenate([organ_truth(volume, self.organ, [slices[part]]) for volume, slices in pairs])

    def organ_masks(self) -> list[np.ndarray]:
        """The organ in each support, (Z, H, W) bool."""
        return [organ_truth(volume, self.organ) for volume in self.volumes]

    def __repr__(self) -> str:
        return f"SupportSet({self.name}, {len(self.volumes)} supports)"


def organ_truth(volume: Volume, organ: int, slices: Sequence[int] | None = None) -> np.ndarray:
    """(Z, H, W) bool: the ground truth of one class of a labeled scan, or (n, H, W) of some of its slices."""
    assert volume.labels_ZHW is not None, f"{volume.name} has no labels"
    labels_ZHW = volume.labels_ZHW
    return (labels_ZHW if slices is None else labels_ZHW[list(slices)]) == organ


def build_support_set(organ: int, name: str, supports: Sequence[Volume], fold: int = 0) -> SupportSet:
    """The supports that show the organ, with their slices. Raises DataError if none does."""
    shown = tuple(
        volume for volume in supports if volume.labels_ZHW is not None and organ_truth(volume, organ).any()
    )
    if not shown:
        names = ", ".join(volume.name for volume in supports)
        raise DataError(f"class {organ} ({name}) is in none of the supports ({names}); choose others")
    slices = tuple(support_slices(organ_truth(volume, organ)) for volume in shown)
    return SupportSet(organ, name, shown, slices, fold)


def selected_classes(volumes: Volumes, numbers: Sequence[int]) -> dict[int, str]:
    """Class number -> name of the given classes, or of all if none is given. Raises ConfigError for an unknown one."""
    for number in numbers:
        if number not in volumes.classes:
            raise ConfigError(
                f"organs: no class {number} in {volumes.folder}; there are {class_list(volumes)}"
            )
    return {number: volumes.classes[number] for number in numbers or volumes.classes}


def class_list(volumes: Volumes) -> str:
    """Numbers and names of a folder's classes, for a message."""
    return ", ".join(f"{number} {name}" for number, name in volumes.classes.items())
