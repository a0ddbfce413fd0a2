"""Slices of a generated abdomen before the scanner's artifacts: mean gray value per tissue, texture, partial volume.

Z slices of H rows (front to back) and W columns (patient's right to left); T thin layers of all slices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..fields import smooth_noise
from .patient import LAYERS, ScanGrid
from .tissues import Tissue, TissueVolume

TissueValues = Mapping[Tissue, tuple[float, float, float]]
"""Tissue -> mean value, standard deviation between patients, standard deviation of its texture."""


def tissue_image(
    volume: TissueVolume,
    grid: ScanGrid,
    table: TissueValues,
    contents_THW: np.ndarray,
    lung: float,
    random: np.random.Generator,
) -> np.ndarray:
    """The slices, (Z, H, W) float32: each is the mean of its thin layers, blurred in plane.

    contents_THW: value that the bowel's content adds; lung: value that a vessel in the lung adds.
    """
    import cv2

    mean, between, grain = np.array([table[tissue] for tissue in Tissue], np.float32).T
    mean = mean + between * np.clip(random.normal(size=len(Tissue)), -1.7, 1.7).astype(np.float32)
    cells = max(24, round(grid.side * grid.pixel / 4))
    layer_z, y, x = grid.axes(cells)
    axes = (layer_z[LAYERS // 2 :: LAYERS], y, x)
    coarse, vessels = smooth_noise(random, axes, 11), smooth_noise(random, axes, 4)
    blur = random.uniform(0.5, 0.85) / grid.pixel
    image = np.empty((grid.slices, grid.side, grid.side), np.float32)
    for z in range(grid.slices):
        layers = slice(z * LAYERS, (z + 1) * LAYERS)
        tissue = volume.tissue_THW[layers]
        values = mean[tissue] + contents_THW[layers] * (tissue == Tissue.BOWEL_CONTENT)
        branch, broad = (enlarged(field[z][None], grid.side)[0] for field in (vessels, coarse))
        fine = random.standard_normal(broad.shape, dtype=np.float32)
        fine = cv2.GaussianBlur(fine, (0, 0), 1.1) * 3.4
        values += grain[tissue] * (0.55 * broad + 0.65 * fine)
        vessel = np.clip(2 * branch - 2.2, 0, 1.6)
        values += (lung * (tissue == Tissue.LUNG) + 1.5 * grain[Tissue.FAT] * (tissue == Tissue.FAT)) * vessel
        image[z] = cv2.GaussianBlur(values.mean(0), (0, 0), blur)
    return image


def enlarged(field: np.ndarray, side: int) -> np.ndarray:
    """(Z, h, w) interpolated to (Z, side, side) with the same edges."""
    import cv2

    layers = field.astype(np.float32)
    return np.stack([cv2.resize(layer, (side, side), interpolation=cv2.INTER_LINEAR) for layer in layers])
