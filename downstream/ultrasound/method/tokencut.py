"""TokenCut: one object in one image by the normalized cut of its patches, without a label or other images.

Wang et al., "Self-supervised transformers for unsupervised object discovery using normalized cut", 2202.11539,
section 3; the cut itself is Shi and Malik's (2000).

R x C patches of an image, N of them in all, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ....platform.measure.neighbors import unit_vectors


@dataclass(frozen=True, slots=True, eq=False)
class FrameCut:
    """The object in one image.

    mask: (R, C) bool. uncut: where there was nothing to cut and the mask is empty, the smallest, the median and the
    largest cosine between two patches; else None.
    """

    mask: np.ndarray
    uncut: tuple[float, float, float] | None = None

    def __repr__(self) -> str:
        return f"FrameCut({self.mask.mean():.0%} of the patches)"


def tokencut(keys_RCD: np.ndarray, tau: float = 0.2, eps: float = 1e-5) -> FrameCut:
    """The object in one image, by the keys of its patches.

    The weight between two patches is 1 where their cosine is above tau, else eps. The second generalized eigenvector
    of (D - W) y = lambda D y is split at its mean; the patch of largest |y| is the object's seed, its side of the
    split is foreground, and of that the part connected with the seed (by edges) is kept. Where all weights are equal
    there is no cut: the mask is empty.
    Raises DataError for another shape or keys of length 0, ConfigError for eps outside 0..1 or tau outside -1..1.
    """
    from scipy.ndimage import label

    if np.ndim(keys_RCD) != 3 or not np.size(keys_RCD):
        raise DataError(f"keys of shape {np.shape(keys_RCD)} must be (rows, columns, width)")
    if not 0 < eps < 1 or not -1 <= tau <= 1:
        raise ConfigError(f"tau {tau} and eps {eps}: tau is a cosine in -1..1, eps a weight between 0 and 1")
    rows, columns, width = np.shape(keys_RCD)
    unit_ND = unit_vectors(np.reshape(keys_RCD, (-1, width)), "the image")
    cosine_NN = unit_ND @ unit_ND.T
    similar_NN = cosine_NN > tau
    np.fill_diagonal(similar_NN, True)
    if similar_NN.all() or similar_NN.sum() == len(unit_ND):
        pairs = cosine_NN[np.triu_indices(len(unit_ND), 1)] if len(unit_ND) > 1 else np.ones(1)
        low, median, high = map(float, (pairs.min(), np.median(pairs), pairs.max()))
        return FrameCut(np.zeros((rows, columns), bool), uncut=(low, median, high))
    second_N = second_eigenvector(np.where(similar_NN, 1.0, eps))
    seed = int(np.abs(second_N).argmax())
    above_N = second_N > second_N.mean()
    side_RC = (above_N == above_N[seed]).reshape(rows, columns)
    part_RC, _ = label(side_RC)
    return FrameCut(part_RC == part_RC.flat[seed])


def second_eigenvector(weight_NN: np.ndarray) -> np.ndarray:
    """(N,) float64: y of the second smallest lambda in (D - W) y = lambda D y, D the diagonal of W's row sums.

    weight: symmetric, above 0. With z = D^1/2 y it is the second largest of D^-1/2 W D^-1/2; the largest, 1, is known
    to be z = D^1/2 1 and is subtracted, so that one eigenvector remains to be computed (Lanczos, from a fixed start).
    Its sign is arbitrary.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    degree_N = weight_NN.sum(axis=1)
    root_N = np.sqrt(degree_N)
    first_N = root_N / np.linalg.norm(root_N)

    def times(z_N: np.ndarray) -> np.ndarray:
        z_N = z_N.ravel()
        return (weight_NN @ (z_N / root_N)) / root_N - first_N * (first_N @ z_N)

    start_N = np.random.default_rng(0).normal(size=len(degree_N))
    operator = LinearOperator(weight_NN.shape, matvec=times, dtype=np.float64)
    _, z_N1 = eigsh(operator, k=1, which="LA", v0=start_N)
    return z_N1[:, 0] / root_N
