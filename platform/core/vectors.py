"""Vectors of length 1, and the mean of several: what a study's vector is, in tables, in the service and of files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import FeaturesError

# V views, N studies, D dimensions.


def unit_vectors(vectors_ND: np.ndarray, whose: str = "the table") -> np.ndarray:
    """The vectors as float32 of length 1. Raises FeaturesError where one has no direction."""
    vectors_ND = float32_rows(vectors_ND, whose)
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    check_lengths(length_N1, whose)
    return vectors_ND / length_N1


def mean_vectors(vectors_VD: np.ndarray, starts_N: Sequence[int] | np.ndarray, whose: str) -> np.ndarray:
    """The mean of the rows from each start up to the next, made length 1, (N, D) float32.

    Raises FeaturesError where one has no direction.

    >>> mean_vectors(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), [0, 2], "a study").round(3).tolist()
    [[0.7070000171661377, 0.7070000171661377], [0.0, 1.0]]
    """
    counts_N1 = np.diff([*starts_N, len(vectors_VD)]).astype(np.float32)[:, None]
    sums_ND = np.add.reduceat(vectors_VD.astype(np.float32, copy=False), starts_N)
    return unit_vectors(sums_ND / counts_N1, whose)


def float32_rows(vectors_ND: np.ndarray, whose: str) -> np.ndarray:
    """The vectors as float32. Raises FeaturesError where they have no two axes."""
    vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    if vectors_ND.ndim != 2:
        raise FeaturesError(f"{whose} has shape {vectors_ND.shape}; vectors must be (N, D)")
    return vectors_ND


def check_lengths(length_N1: np.ndarray, whose: str) -> None:
    """Raises FeaturesError where a length is NaN, infinite or zero."""
    bad = int((~np.isfinite(length_N1) | (length_N1 == 0)).sum())
    if bad:
        raise FeaturesError(
            f"{bad} of {len(length_N1)} vectors of {whose} are NaN, infinite or zero and have no direction; "
            "check the backbone and extract them again"
        )
