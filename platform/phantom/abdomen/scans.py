"""Generated abdominal scans in memory: an invented patient in a CT or MRI scanner, every organ known.

Bytes depend on the seed, the modality and the scan's number alone.
Z slices from the feet up, H rows front to back, W columns from the patient's right to the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..config import TorsoConfig
from .ct import ct_image
from .mri import mri_image
from .patient import Patient, ScanGrid, draw_patient
from .tissues import tissue_volume

Modality = Literal["ct", "mri"]


MODALITIES: tuple[Modality, ...] = ("ct", "mri")


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedScan:
    """One generated scan.

    image_ZHW: int16, HU or MRI signal; labels_ZHW: uint8, values of `tissues.CLASSES`; stored: orientation of its
    file in nibabel's letters ("LPS": columns to the left, rows to the back, slices to the head).
    """

    name: str
    image_ZHW: np.ndarray
    labels_ZHW: np.ndarray
    grid: ScanGrid
    patient: Patient
    stored: str

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) from (column, row, slice) to mm in NIfTI's space, RAS+: x to the right, y to the front, z up."""
        _, y, x = self.grid.axes(self.grid.side)
        affine = np.diag([-self.grid.pixel, -self.grid.pixel, self.grid.thickness, 1.0])
        affine[:3, 3] = -x[0], -y[0], self.grid.top - (self.grid.slices - 1) * self.grid.thickness
        return affine

    def __repr__(self) -> str:
        return f"GeneratedScan({self.name}, {'x'.join(map(str, self.image_ZHW.shape))})"


def generate_scan(config: TorsoConfig, modality: Modality, number: int) -> GeneratedScan:
    """Scan `number` of a modality, from 1.

    >>> generate_scan(TorsoConfig(side=64), "ct", 1)
    GeneratedScan(ct_001, 38x64x64)
    """
    random = np.random.default_rng((config.seed, MODALITIES.index(modality), number))
    patient = draw_patient(random)
    grid = _draw_grid(config.side, patient, random)
    stored = str(random.choice(["LPS", "LAS", "RAS"]))
    volume = tissue_volume(patient, grid, random)
    image_ZHW = (ct_image if modality == "ct" else mri_image)(volume, grid, random)
    image_ZHW = np.rint(image_ZHW).astype(np.int16)
    return GeneratedScan(f"{modality}_{number:03d}", image_ZHW, volume.labels_ZHW, grid, patient, stored)


def _draw_grid(side: int, patient: Patient, random: np.random.Generator) -> ScanGrid:
    """Slices of 5.5 to 8 mm from the heart to below the kidneys, the patient not quite in the middle."""
    side = round(side * float(random.choice([0.75, 0.875, 1.0])))
    wide = 2 * (143 + patient.fat) * patient.scale[0]
    field = wide * random.uniform(1.06, 1.3)
    thickness = random.uniform(5.5, 8)
    top, bottom = random.uniform(72, 100) * patient.scale[2], random.uniform(-138, -116) * patient.scale[2]
    slices = int(np.clip(round((top - bottom) / thickness) + 1, 24, 40))
    loose = (field - wide) / 4
    left, back = np.clip(random.normal(0, 8, 2), -loose, loose).tolist()
    return ScanGrid(side, field / side, slices, thickness, top, (left, 11 + back))
