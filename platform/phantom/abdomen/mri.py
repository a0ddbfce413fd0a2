"""The simulated MRI scanner: a fat-suppressed T2 sequence with bias field, gain per slice, ghosts and Rician noise.

Rician noise: Gudbjartsson & Patz 1995, Magn. Reson. Med. 34(6).
Z slices of H rows (front to back) and W columns (patient's right to left).
"""

from __future__ import annotations

import numpy as np

from ..fields import smooth_noise
from .patient import LAYERS, ScanGrid
from .slices import TissueValues, enlarged, tissue_image
from .tissues import Tissue, TissueVolume

T = Tissue

T2: TissueValues = {
    T.AIR: (0, 0, 0), T.SKIN: (0.24, 0.04, 0.05), T.SUBCUTANEOUS: (0.11, 0.025, 0.025), T.MUSCLE: (0.19, 0.02, 0.03),
    T.FAT: (0.085, 0.015, 0.03), T.LUNG: (0.03, 0.008, 0.012), T.HEART: (0.26, 0.05, 0.06), T.BOWEL: (0.40, 0.04, 0.06),
    T.BOWEL_CONTENT: (0.35, 0.06, 0.08), T.GAS: (0.02, 0.005, 0.01), T.STOMACH: (0.42, 0.04, 0.05),
    T.JUICE: (0.78, 0.12, 0.08), T.PANCREAS: (0.50, 0.05, 0.07), T.VEIN: (0.50, 0.10, 0.05),
    T.LIVER: (0.37, 0.025, 0.022), T.VESSEL: (0.60, 0.05, 0.04), T.SPLEEN: (0.70, 0.05, 0.03),
    T.CORTEX: (0.70, 0.04, 0.04), T.MEDULLA: (0.86, 0.05, 0.05), T.URINE: (0.98, 0.04, 0.03),
    T.BILE: (1.05, 0.05, 0.02), T.AORTA: (0.28, 0.07, 0.05), T.MARROW: (0.25, 0.04, 0.035), T.BONE: (0.08, 0.01, 0.02),
    T.DISC: (0.34, 0.08, 0.08), T.LIQUOR: (1.05, 0.05, 0.05), T.CORD: (0.52, 0.04, 0.03),
}  # fmt: skip
"""Signal of each tissue, relative to still water."""


def mri_image(volume: TissueVolume, grid: ScanGrid, random: np.random.Generator) -> np.ndarray:
    """An MRI scan, (Z, H, W) float32, from 0 up in a scale of its own."""
    contents = 0.75 * volume.content_THW
    image_ZHW = tissue_image(volume, grid, T2, contents, 0.12, random)
    slices = np.arange(grid.slices)
    z, y, x = grid.axes(48)
    axes = (z[LAYERS // 2 :: LAYERS], y, x)
    bias = random.uniform(0.12, 0.3) * smooth_noise(random, axes, 150)
    near = random.uniform(0.0, 0.35) * (np.square(y / 110) - 0.4)  # coils in front and behind
    gain = random.normal(0, 0.05, len(slices)) + random.uniform(-0.04, 0.04) * (-1.0) ** slices
    image_ZHW *= np.exp(enlarged(bias + near[None, :, None], grid.side))
    image_ZHW *= np.exp(gain)[:, None, None]
    ghost, shift = random.uniform(0.004, 0.03), int(random.uniform(0.08, 0.2) * grid.side)
    image_ZHW += ghost * (np.roll(image_ZHW, shift, 1) + np.roll(image_ZHW, -shift, 1))
    noise = random.standard_normal((2, *image_ZHW.shape), dtype=np.float32) * random.uniform(0.01, 0.022)
    return np.hypot(image_ZHW + noise[0], noise[1]) * random.uniform(350, 1100)
