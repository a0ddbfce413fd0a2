"""Wrong labels on purpose: a mask with part of its pixels replaced by pixels around it."""

# H, W rows and columns of a slice.

from __future__ import annotations

import cv2
import numpy as np

PATCH_SIGMA = 6.0
"""Size of the patches that are swapped: sigma of the smoothed noise, in pixels."""


def with_label_noise(mask_HW: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """(H, W) bool: the mask with this fraction of its pixels removed, and as many around it added, in patches.

    Smooth noise decides which; added pixels are at most as far outside as the mask is thick. The area stays the same
    unless there is no room.

    >>> mask = np.zeros((32, 32), bool); mask[8:24, 8:24] = True
    >>> noisy = with_label_noise(mask, 0.25, np.random.default_rng(0))
    >>> int(noisy.sum()), int((mask & ~noisy).sum())
    (256, 64)
    """
    from scipy.ndimage import distance_transform_edt

    count = round(share * np.count_nonzero(mask_HW))
    if not count:
        return mask_HW.copy()
    noise_HW = cv2.GaussianBlur(random.standard_normal(mask_HW.shape), (0, 0), PATCH_SIGMA)
    thickness = distance_transform_edt(mask_HW).max()
    around_HW = ~mask_HW & (distance_transform_edt(~mask_HW) <= thickness)
    noisy_HW = mask_HW.copy()
    for candidates_HW, value in ((mask_HW, False), (around_HW, True)):
        places = np.flatnonzero(candidates_HW)
        chosen = places[np.argsort(noise_HW.ravel()[places], kind="stable")[:count]]
        noisy_HW.ravel()[chosen] = value
    return noisy_HW
