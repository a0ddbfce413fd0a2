"""Principal components of the patches of several images, and their colors.

R, C rows and columns of patches; D width; P patches of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ....platform.core.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


def fit_components(descriptors: Sequence[np.ndarray]) -> tuple[PCA, list[np.ndarray]]:
    """(one PCA of three components fitted on all images (R, C, D), each image's components (R, C, 3)).

    Raises ConfigError for fewer than 3 patches or dimensions.
    """
    from sklearn.decomposition import PCA

    patches_PD = np.concatenate([one.reshape(-1, one.shape[-1]) for one in descriptors]).astype(np.float64)
    if min(patches_PD.shape) < 3:
        raise ConfigError(
            f"{patches_PD.shape[0]} patches of width {patches_PD.shape[1]}: 3 components need 3 of each"
        )
    pca = PCA(3, svd_solver="covariance_eigh").fit(patches_PD)
    components = [
        pca.transform(one.reshape(-1, one.shape[-1])).reshape(*one.shape[:2], 3) for one in descriptors
    ]
    return pca, components


def components_to_rgb(components: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Components (R, C, 3) as red, green and blue, uint8, on one scale for all images (1st to 99th percentile)."""
    low_3, high_3 = np.percentile(np.concatenate([one.reshape(-1, 3) for one in components]), [1, 99], axis=0)
    range_3 = np.where(high_3 > low_3, high_3 - low_3, 1.0)
    return [np.round(np.clip((one - low_3) / range_3, 0, 1) * 255).astype(np.uint8) for one in components]
