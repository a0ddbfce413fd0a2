"""Slices before any network: standardized intensities, the network's input size, the body and positions within it.

Ayzenberg et al., arXiv 2403.03273, section 3, feed slices normalized by their scan's own mean and deviation; so do we,
whatever a backbone's card says, after clipping what is far brighter than the body.
"""

# Z slices of a scan, n selected slices, H, W pixels, S, T sides as a network sees them; C channels, h, w grid.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor

from ....platform.core.errors import DataError
from ...volumes.volume import Volume

SliceFeatures: TypeAlias = Callable[[Volume, Sequence[int]], Tensor]
"""(scan, slices) -> (n, C, h, w) float32 on the CPU: the interface of tokens, pixel features and trained encoders."""

CLIP_FACTOR = 5.0
"""An MRI's intensities are clipped at this many times the body's median. A full stomach, brighter by far, leaves the
organs of one CHAOS-T2 scan no contrast; in other scans hardly anything is clipped. A CT has its window already."""

LARGE_SHARE = 0.04
"""Where more of the body than this is clipped, it is one large bright thing, and `LOW_CLIP_FACTOR` holds instead."""

LOW_CLIP_FACTOR = 3.0
"""The full stomach, 9 % of its scan, still outshines all organs at 5 medians; at 3 it is as bright as they are. In
the other 19 scans of CHAOS-T2 at most 1.3 % is clipped, and 3 in their place takes a spleen its contrast."""


# Intensities -------------------------------------------------------------------------------------


class IntensityScale(NamedTuple):
    """How a scan's intensities are standardized: clipped at `top`, then (value - mean) / std."""

    top: float
    mean: float
    std: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardized values, float32, in the shape given."""
        return ((np.minimum(values, self.top) - self.mean) / self.std).astype(np.float32)


@lru_cache(maxsize=8)
def intensity_scale(volume: Volume) -> IntensityScale:
    """Clip, mean and standard deviation of a whole scan.

    In an MRI the body is what is brighter than a tenth of the 90th percentile; `top` is `CLIP_FACTOR` times its median,
    or `LOW_CLIP_FACTOR` where that clips more than `LARGE_SHARE` of it. Raises DataError for a constant scan and NaN.
    """
    values_ZHW = volume.image_ZHW
    body_n = values_ZHW[values_ZHW > np.percentile(values_ZHW, 90) / 10]
    top = math.inf
    if volume.modality == "mri" and len(body_n):
        median = float(np.median(body_n))
        large = np.mean(body_n > CLIP_FACTOR * median) > LARGE_SHARE
        top = (LOW_CLIP_FACTOR if large else CLIP_FACTOR) * median
    clipped_ZHW = np.minimum(values_ZHW, top)
    mean, std = float(clipped_ZHW.mean(dtype=np.float64)), float(clipped_ZHW.std(dtype=np.float64))
    if not std > 0 or not math.isfinite(std):
        raise DataError(
            f"{volume.name}: no contrast, or non-finite values (standard deviation {std:g}); prepare the scan again"
        )
    return IntensityScale(top, mean, std)


def standardized(volume: Volume) -> np.ndarray:
    """(Z, H, W) float32 of mean 0 and standard deviation 1 over the scan. Raises as `intensity_scale` does."""
    return intensity_scale(volume).apply(volume.image_ZHW)


def resized(slices_nHW: np.ndarray, side: int, patch: int) -> Tensor:
    """(n, 1, S, T) float32: the shorter side becomes `side`, the longer one keeps the aspect ratio within a patch."""
    height, width = slices_nHW.shape[1:]
    scale = side / min(height, width)
    # OpenCV's order: width, height.
    size = tuple(side + patch * round((pixels * scale - side) / patch) for pixels in (width, height))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    images = [cv2.resize(slice_HW, size, interpolation=interpolation) for slice_HW in slices_nHW]
    return torch.from_numpy(np.stack(images))[:, None]


# The body ----------------------------------------------------------------------------------------


def body_mask(slice_HW: np.ndarray) -> np.ndarray:
    """(H, W) bool: the largest connected component brighter than air, holes filled; all of a constant slice."""
    from scipy.ndimage import binary_fill_holes, label
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if slice_HW.min() == slice_HW.max():
        return np.ones(slice_HW.shape, bool)
    smooth_HW = cv2.GaussianBlur(np.ascontiguousarray(slice_HW, np.float32), (0, 0), 2)
    root_HW = np.sqrt(smooth_HW - smooth_HW.min())
    try:
        # Three classes, the darkest is air: with two, a full stomach would be split from the rest of the body.
        threshold = threshold_multiotsu(root_HW, classes=3, nbins=64)[0]
    except ValueError:  # fewer than three intensities
        threshold = threshold_otsu(root_HW)
    component_HW, count = label(root_HW > threshold)
    if not count:
        return np.ones(slice_HW.shape, bool)
    return binary_fill_holes(component_HW == 1 + np.bincount(component_HW.ravel())[1:].argmax())


def body_coordinates(slice_HW: np.ndarray, h: int, w: int) -> np.ndarray:
    """(4, h, w) float32 of length 1: the position of each cell's center in the body's bounding box.

    The box leaves out 1 % of the body's pixels at each end, since ghosts and noise cling to its edge. y and x run from
    -1 to 1 over it; each is encoded as cosine and sine of a quarter turn per unit, so that the cosine similarity of two
    positions falls smoothly from 1 to 0 over the box's height and width.
    """
    body_HW = body_mask(slice_HW)
    angles = []
    for axis, cells in ((1, h), (0, w)):
        share = body_HW.sum(axis=axis).cumsum() / np.count_nonzero(body_HW)
        low, high = np.searchsorted(share, 0.01), np.searchsorted(share, 0.99) + 1
        centers = (np.arange(cells) + 0.5) * body_HW.shape[1 - axis] / cells
        angles.append(np.clip(2 * (centers - low) / (high - low) - 1, -1.25, 1.25) * math.pi / 2)
    y_hw, x_hw = np.meshgrid(*angles, indexing="ij")
    encoded = np.stack([np.cos(y_hw), np.sin(y_hw), np.cos(x_hw), np.sin(x_hw)]) / math.sqrt(2)
    return encoded.astype(np.float32)


def with_coordinates(features: Tensor, volume: Volume, slices: Sequence[int], weight: float) -> Tensor:
    """Features (n, C, h, w) scaled to root mean square length 1, then 4 coordinate channels of length `weight`.

    The features are returned as they are when `weight` is 0.
    """
    if not weight:
        return features
    lengths = [one.square().sum(dim=0).mean().sqrt() for one in features]
    features = features / torch.stack(lengths)[:, None, None, None]
    h, w = features.shape[2:]
    return torch.cat([features, weight * cached_coordinates(volume, slices, h, w)], dim=1)


def cached_coordinates(volume: Volume, slices: Sequence[int], h: int, w: int) -> Tensor:
    """(n, 4, h, w) float32: `body_coordinates` of slices, which every organ and layer of a scan shares."""
    return torch.from_numpy(np.stack([_coordinates(volume, z, h, w) for z in slices]))


@lru_cache(maxsize=512)
def _coordinates(volume: Volume, z: int, h: int, w: int) -> np.ndarray:
    return body_coordinates(volume.image_ZHW[z], h, w)
