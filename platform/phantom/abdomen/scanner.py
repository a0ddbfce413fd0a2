"""What a scanner makes of a cut abdomen (`cut`): Hounsfield units, or the grey of a fat-suppressed T2 sequence.

A slice is the mean of its thin layers (partial volume), blurred in plane, and then spoilt in the order in
which a scanner does it: CT by photon noise that grows where rays are weak and by streaks beside gas; MRI by a
bias field, by gains that differ from slice to slice, by ghosts of breathing and by Rician noise (Gudbjartsson
& Patz 1995, Magn. Reson. Med. 34(6)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..implicit import smooth_noise
from .abdomen import LAYERS, Grid
from .cut import Tissue, Torso

# Z slices of H rows (front to back) and W columns (patient's right to left), T thin layers of all slices.

Modality = Literal["ct", "mri"]

T = Tissue

HOUNSFIELD: Mapping[Tissue, tuple[float, float, float]] = {
    T.AIR: (-1000, 0, 0), T.SKIN: (15, 8, 10), T.SUBCUTANEOUS: (-106, 4, 5), T.MUSCLE: (56, 4, 7),
    T.FAT: (-98, 5, 8), T.LUNG: (-850, 25, 30), T.HEART: (85, 8, 6), T.BOWEL: (62, 8, 10),
    T.BOWEL_CONTENT: (5, 6, 8), T.GAS: (-960, 12, 6), T.STOMACH: (58, 6, 8), T.JUICE: (8, 7, 6),
    T.PANCREAS: (44, 4, 9), T.VEIN: (112, 10, 4), T.LIVER: (62, 2.5, 5), T.VESSEL: (100, 7, 4),
    T.SPLEEN: (50, 1.5, 4), T.CORTEX: (172, 14, 7), T.MEDULLA: (138, 12, 7), T.URINE: (14, 4, 2),
    T.BILE: (8, 4, 2), T.AORTA: (138, 14, 4), T.MARROW: (185, 35, 32), T.BONE: (480, 70, 60),
    T.DISC: (82, 8, 8), T.LIQUOR: (10, 4, 3), T.CORD: (38, 4, 3),
}  # fmt: skip
"""HU of each tissue in a late portal phase: mean, how patients differ, texture; each a standard deviation."""

T2: Mapping[Tissue, tuple[float, float, float]] = {
    T.AIR: (0, 0, 0), T.SKIN: (0.24, 0.04, 0.05), T.SUBCUTANEOUS: (0.11, 0.025, 0.025), T.MUSCLE: (0.19, 0.02, 0.03),
    T.FAT: (0.085, 0.015, 0.03), T.LUNG: (0.03, 0.008, 0.012), T.HEART: (0.26, 0.05, 0.06), T.BOWEL: (0.40, 0.04, 0.06),
    T.BOWEL_CONTENT: (0.35, 0.06, 0.08), T.GAS: (0.02, 0.005, 0.01), T.STOMACH: (0.42, 0.04, 0.05),
    T.JUICE: (0.78, 0.12, 0.08), T.PANCREAS: (0.50, 0.05, 0.07), T.VEIN: (0.50, 0.10, 0.05),
    T.LIVER: (0.37, 0.025, 0.022), T.VESSEL: (0.60, 0.05, 0.04), T.SPLEEN: (0.70, 0.05, 0.03),
    T.CORTEX: (0.70, 0.04, 0.04), T.MEDULLA: (0.86, 0.05, 0.05), T.URINE: (0.98, 0.04, 0.03),
    T.BILE: (1.05, 0.05, 0.02), T.AORTA: (0.28, 0.07, 0.05), T.MARROW: (0.25, 0.04, 0.035), T.BONE: (0.08, 0.01, 0.02),
    T.DISC: (0.34, 0.08, 0.08), T.LIQUOR: (1.05, 0.05, 0.05), T.CORD: (0.52, 0.04, 0.03),
}  # fmt: skip
"""The same for T2 with the fat's signal suppressed, beside water at rest at 1."""


def scanned(torso: Torso, grid: Grid, modality: Modality, random: np.random.Generator) -> np.ndarray:
    """(Z, H, W) int16: HU, or grey from 0 up in a scale of the scan's own."""
    return np.rint((_ct if modality == "ct" else _t2)(torso, grid, random)).astype(np.int16)


def _ct(torso: Torso, grid: Grid, random: np.random.Generator) -> np.ndarray:
    import cv2

    contents = 45 * torso.content_THW - 5
    image_ZHW = _ideal(torso, grid, HOUNSFIELD, contents, 450, random)
    _couch(image_ZHW, torso, grid, random)
    level, soft = random.uniform(7, 14), random.uniform(0.45, 0.8)
    dense = np.maximum(image_ZHW + 1000, 0) * (grid.pixel / 1000)  # water, mm
    weak = np.sqrt(np.maximum(dense.sum(2, keepdims=True) / 320, 0.15))  # rays from side to side, by row
    spread = 0.6 / soft
    for z, slice_HW in enumerate(image_ZHW):
        noise = random.standard_normal((2, *slice_HW.shape), dtype=np.float32)
        fine = cv2.GaussianBlur(noise[0], (0, 0), soft) * (3.5 * soft)
        lines = cv2.GaussianBlur(noise[1], (0, 0), sigmaX=14, sigmaY=0.6) * 9
        slice_HW += level * (0.85 * fine * spread + 0.4 * lines * weak[z] ** 2) * np.sqrt(weak[z])
        slice_HW += _streaks(torso.tissue_THW[z * LAYERS + LAYERS // 2] == T.GAS, grid, random)
    return np.clip(image_ZHW, -1024, 3071)


def _streaks(gas_HW: np.ndarray, grid: Grid, random: np.random.Generator) -> np.ndarray:
    """(H, W) HU of the rays that leave a pocket of gas."""
    strength, turns = random.uniform(4, 14), random.standard_normal(36)
    count = int(gas_HW.sum())
    if count * grid.pixel**2 < 150:
        return np.zeros(gas_HW.shape, np.float32)
    rows, columns = np.nonzero(gas_HW)
    y, x = np.ogrid[: gas_HW.shape[0], : gas_HW.shape[1]]
    y, x = (y - rows.mean()) * grid.pixel, (x - columns.mean()) * grid.pixel
    angle = (np.arctan2(y, x) / (2 * np.pi) + 0.5) * len(turns)
    ray = np.interp(angle.ravel(), np.arange(len(turns)), turns, period=len(turns)).reshape(gas_HW.shape)
    size = np.sqrt(count / np.pi) * grid.pixel
    return np.float32(strength * ray * np.exp(-np.hypot(x, y) / 60) * np.clip(np.hypot(x, y) / size, 0, 1))


def _couch(image_ZHW: np.ndarray, torso: Torso, grid: Grid, random: np.random.Generator) -> None:
    """The table's two shells behind the patient, drawn in."""
    _, y, x = grid.axes(grid.side)
    outside = torso.tissue_THW[LAYERS // 2 :: LAYERS] == T.AIR
    behind = y[np.flatnonzero((~outside).any((0, 2)))[-1]] + random.uniform(3, 9)
    flat = random.uniform(700, 1500)
    bowl = y[:, None] + np.square(x - random.uniform(-12, 12))[None, :] / flat - behind
    for depth, bright in ((0, -250), (random.uniform(22, 40), -420)):
        line = np.exp(-0.5 * np.square((bowl - depth) / 1.2))
        image_ZHW += outside * line * (1000 + bright) * (np.abs(x) < 215)


def _t2(torso: Torso, grid: Grid, random: np.random.Generator) -> np.ndarray:
    contents = 0.75 * torso.content_THW
    image_ZHW = _ideal(torso, grid, T2, contents, 0.12, random)
    slices = np.arange(grid.slices)
    z, y, x = grid.axes(48)
    axes = (z[LAYERS // 2 :: LAYERS], y, x)
    bias = random.uniform(0.12, 0.3) * smooth_noise(random, axes, 150)
    near = random.uniform(0.0, 0.35) * (np.square(y / 110) - 0.4)  # coils before and behind
    gain = random.normal(0, 0.05, len(slices)) + random.uniform(-0.04, 0.04) * (-1.0) ** slices
    image_ZHW *= np.exp(_enlarged(bias + near[None, :, None], grid.side))
    image_ZHW *= np.exp(gain)[:, None, None]
    ghost, shift = random.uniform(0.004, 0.03), int(random.uniform(0.08, 0.2) * grid.side)
    image_ZHW += ghost * (np.roll(image_ZHW, shift, 1) + np.roll(image_ZHW, -shift, 1))
    noise = random.standard_normal((2, *image_ZHW.shape), dtype=np.float32) * random.uniform(0.01, 0.022)
    return np.hypot(image_ZHW + noise[0], noise[1]) * random.uniform(350, 1100)


def _ideal(
    torso: Torso,
    grid: Grid,
    table: Mapping[Tissue, tuple[float, float, float]],
    contents_THW: np.ndarray,
    lung: float,
    random: np.random.Generator,
) -> np.ndarray:
    """(Z, H, W) float32 before all that spoils it.

    table: of tissues; contents_THW: what the bowel's content adds; lung: what a vessel in the lung does.
    """
    import cv2

    mean, differ, grain = (
        np.array(column, np.float32) for column in zip(*(table[t] for t in T), strict=True)
    )
    mean = mean + differ * np.clip(random.normal(size=len(T)), -1.7, 1.7).astype(np.float32)
    cells = max(24, round(grid.side * grid.pixel / 4))
    z, y, x = grid.axes(cells)
    axes = (z[LAYERS // 2 :: LAYERS], y, x)
    coarse, vessels = smooth_noise(random, axes, 11), smooth_noise(random, axes, 4)
    blur = random.uniform(0.5, 0.85) / grid.pixel
    image = np.empty((grid.slices, grid.side, grid.side), np.float32)
    for slice_ in range(grid.slices):
        layers = slice(slice_ * LAYERS, (slice_ + 1) * LAYERS)
        tissue = torso.tissue_THW[layers]
        values = mean[tissue] + contents_THW[layers] * (tissue == T.BOWEL_CONTENT)
        branch, broad = (_enlarged(field[slice_][None], grid.side)[0] for field in (vessels, coarse))
        fine = random.standard_normal(broad.shape, dtype=np.float32)
        fine = cv2.GaussianBlur(fine, (0, 0), 1.1) * 3.4
        values += grain[tissue] * (0.55 * broad + 0.65 * fine)
        values += (lung * (tissue == T.LUNG) + 1.5 * grain[T.FAT] * (tissue == T.FAT)) * np.clip(
            2 * branch - 2.2, 0, 1.6
        )
        image[slice_] = cv2.GaussianBlur(values.mean(0), (0, 0), blur)
    return image


def _enlarged(field: np.ndarray, side: int) -> np.ndarray:
    """(Z, h, w) as (Z, side, side), edges kept."""
    import cv2

    return np.stack(
        [cv2.resize(np.float32(layer), (side, side), interpolation=cv2.INTER_LINEAR) for layer in field]
    )
