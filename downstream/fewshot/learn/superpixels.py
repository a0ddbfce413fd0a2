"""Superpixels of a slice within the body: the pseudo-labels of self-supervised episodes.

Felzenszwalb and Huttenlocher, IJCV 2004, as in Ouyang et al., arXiv 2007.09886, section 3.2.
"""

# H, W rows and columns of a slice.

from __future__ import annotations

import numpy as np

from ..method.slices import body_mask
from .config import EpisodeConfig


def superpixels(slice_HW: np.ndarray, config: EpisodeConfig | None = None) -> np.ndarray:
    """(H, W) int32: labels 1, 2, … without gaps for superpixels within the body, 0 elsewhere.

    slice_HW: gray values of a prepared slice, 0 to 255. The published pseudo-labels were cut at that scale, too, where
    `min_size` decides and `scale` hardly matters. All 0 for a constant slice.
    """
    from skimage.segmentation import felzenszwalb

    config = config or EpisodeConfig()
    slice_HW = np.asarray(slice_HW, np.float64)
    if slice_HW.min() == slice_HW.max():
        return np.zeros(slice_HW.shape, np.int32)
    segments_HW = felzenszwalb(slice_HW, scale=config.scale, sigma=config.sigma, min_size=config.min_size)
    labels_HW = np.where(body_mask(slice_HW), segments_HW + 1, 0)
    keep = np.bincount(labels_HW.ravel()) >= config.min_size / 2
    keep[0] = False
    new_labels = np.where(keep, np.cumsum(keep), 0)
    return new_labels[labels_HW].astype(np.int32)
