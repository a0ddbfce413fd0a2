"""Features of slices without a network: intensities and gradients at a few scales, the baseline of every table."""

# K intensities and gradients of a slice, H, W pixels; C channels, h, w grid.

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ...volumes.volume import Volume
from .config import SliceConfig
from .grid import grid_mask
from .slices import intensity_scale, with_coordinates

SIGMAS = (1.0, 2.0, 4.0)
"""Scales of the means and gradients: sigma of the Gaussian in pixels."""

VALUE_LIMIT = 3.0
"""Values further than this many standard deviations from the scan's mean count as equal."""

GRADIENT_WEIGHT = 0.25
"""Weight of a gradient beside a mean of 1: it says where an organ ends, not which organ it is."""


class PixelFeatures:
    """Intensities and gradient magnitudes at a few scales, and the position in the body: `SliceFeatures`.

    A value v becomes (cos v, sin v), so that the cosine similarity of two cells is the mean of cos(difference) over all
    values: it depends on how near the values are, not on how large they are.
    """

    def __init__(self, config: SliceConfig | None = None) -> None:
        self.config = config or SliceConfig()

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32. Raises DataError for a constant scan."""
        scale = intensity_scale(volume)
        return torch.cat([self._one_slice(volume, scale.apply(volume.image_ZHW[z]), z) for z in slices])

    def _one_slice(self, volume: Volume, values_HW: np.ndarray, z: int) -> Tensor:
        """(1, C, h, w)."""
        side = self.config.enlarged or self.config.grid
        values_Khw = grid_mask(torch.from_numpy(_means_and_gradients(values_HW)), side, side)
        angles = values_Khw.clamp(-VALUE_LIMIT, VALUE_LIMIT) * (math.pi / 2 / VALUE_LIMIT)
        weights = [1.0] * (1 + len(SIGMAS)) + [GRADIENT_WEIGHT] * len(SIGMAS)
        weights_K11 = torch.tensor(weights)[:, None, None].sqrt()
        features = torch.cat([angles.cos() * weights_K11, angles.sin() * weights_K11])
        return with_coordinates(features[None], volume, [z], self.config.pixel_coordinates)

    def __repr__(self) -> str:
        return f"PixelFeatures(grid {self.config.enlarged or self.config.grid})"


def _means_and_gradients(slice_HW: np.ndarray) -> np.ndarray:
    """(1 + 2 scales, H, W): the slice, its Gaussian means and the magnitude of their gradients."""
    means = [cv2.GaussianBlur(slice_HW, (0, 0), sigma) for sigma in SIGMAS]
    # A step of one deviation has a gradient of about 1 / (2.5 sigma) a pixel; scaled, it counts alike at every sigma.
    gradients = [
        2.5
        * sigma
        * cv2.magnitude(cv2.Scharr(mean, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(mean, cv2.CV_32F, 0, 1) / 32)
        for sigma, mean in zip(SIGMAS, means, strict=True)
    ]
    return np.stack([slice_HW, *means, *gradients])
