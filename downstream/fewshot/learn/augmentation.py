"""Two random augmentations of a slice and a mask, the support and the query of a self-supervised episode.

Ouyang et al., arXiv 2007.09886, section 3.2: affine and elastic deformation, then a gamma transform of the gray values.
"""

# H, W rows and columns of a slice, K a slice with its neighbors.

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ....platform.core.errors import DataError
from .config import EpisodeConfig

TRIES = 10
"""How often an augmentation is drawn again if it moves the whole mask out of the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class AugmentedSlice:
    """A slice and a mask after one augmentation.

    image: float32 (H, W), or (K, H, W) for a slice with its neighbors; mask: bool (H, W), never empty.
    """

    image: np.ndarray
    mask: np.ndarray

    def __repr__(self) -> str:
        return f"AugmentedSlice({'x'.join(map(str, self.image.shape))}, {int(self.mask.sum())} pixels)"


def augmented_pair(
    image: np.ndarray, mask_HW: np.ndarray, config: EpisodeConfig | None, random: np.random.Generator
) -> tuple[AugmentedSlice, AugmentedSlice]:
    """Two independent augmentations of a slice and a mask: support and query.

    image: (H, W), or (K, H, W) with neighbors, which are deformed alike. Raises DataError for an empty mask.
    """
    config = config or EpisodeConfig()
    mask_HW = np.asarray(mask_HW).astype(bool)
    if image.shape[-2:] != mask_HW.shape:
        raise DataError(f"a slice of {image.shape[-2:]} pixels and a mask of {mask_HW.shape} do not fit")
    if not mask_HW.any():
        raise DataError("an empty mask; an episode needs a slice or superpixel that shows something")
    return _augmented(image, mask_HW, config, random), _augmented(image, mask_HW, config, random)


def _augmented(
    image: np.ndarray, mask_HW: np.ndarray, config: EpisodeConfig, random: np.random.Generator
) -> AugmentedSlice:
    """One augmentation; only the gamma transform if every deformation moves the mask out of the slice."""
    for _ in range(TRIES):
        warp = _random_warp(mask_HW.shape, config, random)
        warped_HW = warp.mask(mask_HW)
        if warped_HW.any():
            return AugmentedSlice(warp.image(image), warped_HW)
    grid_2HW = np.indices(mask_HW.shape, np.float32)
    return AugmentedSlice(_Warp(grid_2HW[1], grid_2HW[0], warp.gamma).image(image), mask_HW)


@dataclass(frozen=True, slots=True, eq=False)
class _Warp:
    """Where each output pixel is sampled in the slice (x_HW, y_HW float32), and the exponent of gray values."""

    x_HW: np.ndarray
    y_HW: np.ndarray
    gamma: float

    def mask(self, mask_HW: np.ndarray) -> np.ndarray:
        """Nearest-neighbor sampling; False outside the slice."""
        warped_HW = cv2.remap(mask_HW.astype(np.uint8), self.x_HW, self.y_HW, cv2.INTER_NEAREST)
        return warped_HW.astype(bool)

    def image(self, image: np.ndarray) -> np.ndarray:
        """Bilinear sampling of (H, W) or (K, H, W), edges replicated; the range of gray values stays."""
        if image.ndim == 3:
            return np.stack([self.image(slice_HW) for slice_HW in image])
        warped_HW = cv2.remap(
            image.astype(np.float32), self.x_HW, self.y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        low, high = float(warped_HW.min()), float(warped_HW.max())
        if high == low:
            return warped_HW
        return low + (high - low) * ((warped_HW - low) / (high - low)) ** np.float32(self.gamma)


def _random_warp(shape: tuple[int, ...], config: EpisodeConfig, random: np.random.Generator) -> _Warp:
    """Shear, rotation, zoom and shift about the center plus the elastic field, in one: pixels are sampled once."""
    turn, slant, *shift_2 = random.uniform(-1, 1, 4)
    zoom, gamma = random.uniform(*config.zoom), random.uniform(*config.gamma)
    field_2HW = random.uniform(-1, 1, (2, *shape)).astype(np.float32)
    angle, slope = math.radians(turn * config.rotation), math.tan(math.radians(slant * config.shear))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # Maps output pixels to pixels of the slice.
    inverse = np.linalg.inv(zoom * rotation @ np.array([[1, slope], [0, 1]])).astype(np.float32)
    center_2 = (np.array(shape[::-1], np.float32) - 1) / 2
    origin_2 = center_2 + np.array(shift_2, np.float32) * np.float32(config.shift)
    rows_HW, columns_HW = np.indices(shape, np.float32)
    offset_2HW = np.stack([columns_HW - origin_2[0], rows_HW - origin_2[1]])
    source_2HW = np.einsum("ab,bhw->ahw", inverse, offset_2HW)
    smooth_2HW = [cv2.GaussianBlur(field_HW, (0, 0), config.elastic_sigma) for field_HW in field_2HW]
    x_HW, y_HW = (
        source_2HW + center_2[:, None, None] + np.float32(config.elastic_alpha) * np.stack(smooth_2HW)
    )
    return _Warp(x_HW.astype(np.float32), y_HW.astype(np.float32), float(gamma))
