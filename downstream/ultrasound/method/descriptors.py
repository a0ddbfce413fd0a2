"""Log-binned descriptors of patches with their surroundings, and best buddies: mutual nearest patches of two images.

Both after Amir et al., "Deep ViT features as dense visual descriptors", 2112.05814, sections 3.2 and 4.3.

R x C patches of an image, D dimensions, N and M patches of two images, P pairs.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ....platform.measure.neighbors import nearest


def log_binned(descriptors_RCD: np.ndarray, hierarchy: int = 2) -> np.ndarray:
    """(R, C, (1 + 8 * hierarchy) * D) float32: each patch, then the means of windows around it.

    First the patch itself; then, for h = 0, 1, ..., the eight windows of 3^h x 3^h patches whose centers lie 3^h rows
    or columns away, row by row from the upper left: at hierarchy 2 single patches at 1, means of 3 x 3 at 3. At the
    border of the grid, as in Amir et al.'s code: a mean is over the part of its window inside the grid, and a
    center outside is moved to the nearest patch inside. Raises DataError for another shape or non-finite values,
    ConfigError for a hierarchy below 1.
    """
    from scipy.ndimage import uniform_filter

    descriptors_RCD = np.asarray(descriptors_RCD, np.float32)
    if descriptors_RCD.ndim != 3 or not descriptors_RCD.size:
        raise DataError(f"descriptors of shape {descriptors_RCD.shape} must be (rows, columns, width)")
    if not np.isfinite(descriptors_RCD).all():
        raise DataError("descriptors are NaN or infinite; check the backbone and extract them again")
    if hierarchy < 1:
        raise ConfigError(
            f"hierarchy is {hierarchy}; it must be at least 1; to describe patches alone, leave log-binning out"
        )
    rows, columns, _ = descriptors_RCD.shape
    bins = [descriptors_RCD]
    for step in (3**level for level in range(hierarchy)):
        size = (step, step, 1)
        within_RC1 = uniform_filter(np.ones((rows, columns, 1)), size, mode="constant")
        # Double while windows slide: a running sum in float32 forgets its last bits.
        sum_RCD = uniform_filter(descriptors_RCD, size, mode="constant", output=np.float64)
        mean_RCD = (sum_RCD / within_RC1).astype(np.float32)
        for down, right in product((-step, 0, step), repeat=2):
            if down or right:
                row_R = np.clip(np.arange(rows) + down, 0, rows - 1)
                column_C = np.clip(np.arange(columns) + right, 0, columns - 1)
                bins.append(mean_RCD[np.ix_(row_R, column_C)])
    return np.concatenate(bins, axis=2)


def best_buddies(
    a_ND: np.ndarray, b_MD: np.ndarray, salient_a_N: np.ndarray, salient_b_M: np.ndarray
) -> np.ndarray:
    """(P, 2) int64: pairs of a patch of `a` and one of `b` that are each other's nearest by cosine and both salient.

    Sorted by the index in `a`; of equally near patches the first counts as the nearest. salient: (N,) and (M,) bool.
    Raises DataError for widths or counts that differ, and for vectors of length 0.
    """
    for name, vectors, salient in (("a", a_ND, salient_a_N), ("b", b_MD, salient_b_M)):
        if np.shape(salient) != (len(vectors),):
            raise DataError(
                f"{len(vectors)} patches of {name}, saliency of shape {np.shape(salient)}; give one each"
            )
    to_b_N = nearest(b_MD, a_ND, 1)[1][:, 0]
    to_a_M = nearest(a_ND, b_MD, 1)[1][:, 0]
    index_N = np.arange(len(to_b_N))
    mutual_N = to_a_M[to_b_N] == index_N
    kept_N = mutual_N & np.asarray(salient_a_N, bool) & np.asarray(salient_b_M, bool)[to_b_N]
    return np.stack([index_N[kept_N], to_b_N[kept_N]], axis=1)
