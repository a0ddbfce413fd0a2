"""The simulated CT scanner: Hounsfield units, photon noise, streaks next to gas, the table.

Z slices of H rows (front to back) and W columns (patient's right to left); T thin layers of all slices.
"""

from __future__ import annotations

import numpy as np

from .patient import LAYERS, ScanGrid
from .slices import TissueValues, tissue_image
from .tissues import Tissue, TissueVolume

T = Tissue

HOUNSFIELD: TissueValues = {
    T.AIR: (-1000, 0, 0), T.SKIN: (15, 8, 10), T.SUBCUTANEOUS: (-106, 4, 5), T.MUSCLE: (56, 4, 7),
    T.FAT: (-98, 5, 8), T.LUNG: (-850, 25, 30), T.HEART: (85, 8, 6), T.BOWEL: (62, 8, 10),
    T.BOWEL_CONTENT: (5, 6, 8), T.GAS: (-960, 12, 6), T.STOMACH: (58, 6, 8), T.JUICE: (8, 7, 6),
    T.PANCREAS: (44, 4, 9), T.VEIN: (112, 10, 4), T.LIVER: (62, 2.5, 5), T.VESSEL: (100, 7, 4),
    T.SPLEEN: (50, 1.5, 4), T.CORTEX: (172, 14, 7), T.MEDULLA: (138, 12, 7), T.URINE: (14, 4, 2),
    T.BILE: (8, 4, 2), T.AORTA: (138, 14, 4), T.MARROW: (185, 35, 32), T.BONE: (480, 70, 60),
    T.DISC: (82, 8, 8), T.LIQUOR: (10, 4, 3), T.CORD: (38, 4, 3),
}  # fmt: skip
"""HU of each tissue in the late portal venous phase."""


def ct_image(volume: TissueVolume, grid: ScanGrid, random: np.random.Generator) -> np.ndarray:
    """A CT scan, (Z, H, W) float32 HU. Noise grows where rays cross much tissue."""
    import cv2

    contents = 45 * volume.content_THW - 5
    image_ZHW = tissue_image(volume, grid, HOUNSFIELD, contents, 450, random)
    _draw_table(image_ZHW, volume, grid, random)
    level, soft = random.uniform(7, 14), random.uniform(0.45, 0.8)
    water = np.maximum(image_ZHW + 1000, 0) * (grid.pixel / 1000)  # equivalent thickness, mm
    weak = np.sqrt(np.maximum(water.sum(2, keepdims=True) / 320, 0.15))  # rays from side to side, per row
    spread = 0.6 / soft
    for z, slice_HW in enumerate(image_ZHW):
        noise = random.standard_normal((2, *slice_HW.shape), dtype=np.float32)
        fine = cv2.GaussianBlur(noise[0], (0, 0), soft) * (3.5 * soft)
        lines = cv2.GaussianBlur(noise[1], (0, 0), sigmaX=14, sigmaY=0.6) * 9
        slice_HW += level * (0.85 * fine * spread + 0.4 * lines * weak[z] ** 2) * np.sqrt(weak[z])
        slice_HW += _gas_streaks(volume.tissue_THW[z * LAYERS + LAYERS // 2] == T.GAS, grid, random)
    return np.clip(image_ZHW, -1024, 3071)


def _gas_streaks(gas_HW: np.ndarray, grid: ScanGrid, random: np.random.Generator) -> np.ndarray:
    """HU of the streaks around the gas of a slice, (H, W) float32; 0 where there is little gas."""
    strength, rays = random.uniform(4, 14), random.standard_normal(36)
    count = int(gas_HW.sum())
    if count * grid.pixel**2 < 150:
        return np.zeros(gas_HW.shape, np.float32)
    rows, columns = np.nonzero(gas_HW)
    y, x = np.ogrid[: gas_HW.shape[0], : gas_HW.shape[1]]
    y, x = (y - rows.mean()) * grid.pixel, (x - columns.mean()) * grid.pixel
    angle = (np.arctan2(y, x) / (2 * np.pi) + 0.5) * len(rays)
    streak = np.interp(angle.ravel(), np.arange(len(rays)), rays, period=len(rays)).reshape(gas_HW.shape)
    size = np.sqrt(count / np.pi) * grid.pixel
    distance = np.hypot(x, y)
    return (strength * streak * np.exp(-distance / 60) * np.clip(distance / size, 0, 1)).astype(np.float32)


def _draw_table(
    image_ZHW: np.ndarray, volume: TissueVolume, grid: ScanGrid, random: np.random.Generator
) -> None:
    """Draw the two shells of the table behind the patient, in place."""
    _, y, x = grid.axes(grid.side)
    outside = volume.tissue_THW[LAYERS // 2 :: LAYERS] == T.AIR
    behind = y[np.flatnonzero((~outside).any((0, 2)))[-1]] + random.uniform(3, 9)
    flat = random.uniform(700, 1500)
    bowl = y[:, None] + np.square(x - random.uniform(-12, 12))[None, :] / flat - behind
    for depth, bright in ((0, -250), (random.uniform(22, 40), -420)):
        line = np.exp(-0.5 * np.square((bowl - depth) / 1.2))
        image_ZHW += outside * line * (1000 + bright) * (np.abs(x) < 215)
