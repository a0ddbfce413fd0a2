"""Textures of tissue: Gaussian random fields that move with the tissue and change smoothly along the limb."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

STEP = 0.25
"""Distance in mm between two points of a texture."""

TILE = (512, 640)
"""Period of a texture in rows and columns: 128 by 160 mm."""

SLICE_DISTANCE = 7.0
"""Distance in mm along the limb after which a texture is replaced by an independent one."""

GRAIN_SIZES = ((1.6, 0.3), (5.0, 2.2), (2.2, 0.7), (4.0, 0.7))
"""Standard deviations in mm along x and y of perimysium, mottling, gaps in lines, septa of the fat."""


def texture(seed: tuple[int, ...], number: int, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Texture `number` of a limb's seed at points (x, y), z mm: float32 of mean 0 and standard deviation 1."""
    import cv2

    index, share = divmod(z / SLICE_DISTANCE, 1)
    near, far = (_tile((*seed, number), int(index) + offset, *GRAIN_SIZES[number]) for offset in (0, 1))
    tile = np.float32(np.cos(share * np.pi / 2)) * near + np.float32(np.sin(share * np.pi / 2)) * far
    columns, rows = x / np.float32(STEP) % TILE[1], y / np.float32(STEP) % TILE[0]
    return cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@lru_cache(maxsize=64)
def _tile(key: tuple[int, ...], index: int, length: float, height: float) -> np.ndarray:
    """White noise blurred by a Gaussian of standard deviations length, height mm: TILE float32, periodic."""
    white = np.random.default_rng((*key, index + 2**20)).standard_normal(TILE, np.float32)
    rows, columns = np.fft.fftfreq(TILE[0], STEP)[:, None], np.fft.rfftfreq(TILE[1], STEP)[None, :]
    transfer = np.exp(-2 * np.pi**2 * ((rows * height) ** 2 + (columns * length) ** 2))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * transfer, TILE)
    return (smooth / smooth.std()).astype(np.float32)
