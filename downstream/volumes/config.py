"""Settings of `vetdino fewshot prepare`: how CT and MRI scans become slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError, DataError

Modality = Literal["ct", "mri"]

Plane = Literal["axial", "coronal", "sagittal"]

PLANES: dict[Plane, str] = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
"""Plane -> directions of its slices, rows and columns as radiologists read them: S or I, A or P, L or R."""


def world_axes(axes: str) -> list[int]:
    """For each letter of `axes` the world axis it runs along: 0 left-right, 1 front-back, 2 feet-head.

    Raises DataError where the letters do not name three directions.

    >>> world_axes("SPL")
    [2, 1, 0]
    """
    found = [
        next((axis for axis, pair in enumerate(("LR", "AP", "IS")) if letter in pair), -1) for letter in axes
    ]
    if sorted(found) != [0, 1, 2]:
        raise DataError(f"axes '{axes}': give three letters, one each of R or L, A or P, S or I")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How scans become slices; the defaults are the published benchmarks' (arXiv 2403.03273, section 4.1)."""

    modality: Literal["guess", "ct", "mri"] = "guess"
    """Modality of the scans. guess: from the table, a DICOM tag, or else CT where there are values below -500."""
    plane: Literal["acquired", "axial", "coronal", "sagittal"] = "acquired"
    """Plane of the slices. acquired: across the axis of the largest spacing; axial where spacings are nearly equal."""
    orthogonal: bool = False
    """Resample scans of a sheared grid (a tilted gantry) to an orthogonal one, so that ITK can open their masks."""
    side: int = 256
    """Side of a prepared slice, in pixels."""
    ct_window: tuple[float, float] = (-125.0, 275.0)
    """Hounsfield units that become 0 and 255."""
    ct_border: float = 0.0625
    """Part of a CT slice cut from each edge: 32 of 512 pixels."""
    ct_spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm (slice, row, column) to resample CT to; a first 0 keeps the slices, another scales them to fill the square."""
    mri_top: float = 0.5
    """Percent of the brightest MRI voxels that are clipped; pictures of 8 bits keep their values."""
    mri_border: float = 0.0
    """Part of an MRI slice cut from each edge."""
    mri_spacing: tuple[float, float, float] = (7.7, 1.25, 1.25)
    """mm (slice, row, column) to resample MRI to, before the center is cropped or padded; 0 as for CT."""
    stack_spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm (slice, row, column) of scans that are pictures; 0: unknown, so they are not resampled, and no volume or
    distance is given. A table's column `spacing` sets it for one scan."""
    stack_axes: str = "SPL"
    """Directions of the slices, rows and columns of pictures: S or I, A or P, L or R (SPL: to the head, to the back, to
    the patient's left, as radiologists read them)."""
    classes: str = ""
    """Names of classes: `1=liver,2=spleen`, or a JSON or CSV file; empty: SRC/classes.json or SRC/dataset.json if
    there is one. Where a number is above 255, classes are numbered anew from 1 in the order of theirs."""
    min_slices: int = 3
    """Scans with fewer prepared slices are left out; the three parts of the protocol need 3, single pictures 1."""

    def __post_init__(self) -> None:
        for name in ("side", "min_slices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("ct_border", "mri_border"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it is a part of a side, from 0 to below 0.5"
                )
        for name in ("ct_spacing", "mri_spacing", "stack_spacing"):
            if not all(0 <= size < float("inf") for size in getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}; give mm, or 0")
        if any(self.stack_spacing) and not all(self.stack_spacing):
            raise ConfigError(f"stack_spacing is {self.stack_spacing}; give all three in mm, or none")
        if not self.ct_window[0] < self.ct_window[1]:
            raise ConfigError(f"ct_window is {self.ct_window}; the first must lie below the second")
        if not 0 <= self.mri_top < 100:
            raise ConfigError(f"mri_top is {self.mri_top}; give percent, from 0 to below 100")
        try:
            world_axes(self.stack_axes)
        except DataError as error:
            raise ConfigError(f"stack_axes: {error}") from None
