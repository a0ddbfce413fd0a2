"""Exact nearest neighbors by cosine, and their vote on findings.

N bank items, M queries, D dimensions, K neighbors, J candidates, F findings.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import FeaturesError

GRAIN = 2e-6
"""Two float32 cosines nearer than this may be one and the same number, summed in another order."""

BLOCK = 16_000_000
"""Most numbers gathered at a time when neighbors are scored again; 64 MB in float32."""


def nearest(bank_ND: np.ndarray, queries_MD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k bank items of largest cosine for each query: scores (M, K) float32 and indices (M, K) int64.

    The larger score comes first, of equal scores the smaller index, in whatever order FAISS returns them.
    K is k or the size of the bank. Raises FeaturesError for an empty bank, k < 1, dimensions that differ, or
    vectors without a direction (NaN, infinite, zero).
    """
    import faiss

    bank_ND, queries_MD = unit_vectors(bank_ND, "the bank"), unit_vectors(queries_MD, "the queries")
    if not len(bank_ND):
        raise FeaturesError("the bank of neighbors is empty; choose a split that holds studies")
    if bank_ND.shape[1] != queries_MD.shape[1]:
        raise FeaturesError(
            f"the bank has {bank_ND.shape[1]} dimensions, the queries have {queries_MD.shape[1]}; "
            "both must come from one backbone"
        )
    if k < 1:
        raise FeaturesError(f"k is {k}; ask for at least one neighbor")
    k = min(k, len(bank_ND))
    index = faiss.IndexFlatIP(bank_ND.shape[1])
    index.add(bank_ND)
    rough_MJ, candidates_MJ = index.search(queries_MD, min(k + 1, len(bank_ND)))
    scores_MK, indices_MK = _ranked(bank_ND, queries_MD, candidates_MJ[:, :k])
    if rough_MJ.shape[1] > k:
        # FAISS may have kept the wrong ones of several that tie for the last place.
        for m in np.flatnonzero(rough_MJ[:, k - 1] - rough_MJ[:, k] < GRAIN):
            query_1D = queries_MD[m : m + 1]
            _, _, candidates_J = index.range_search(query_1D, float(rough_MJ[m, k - 1]) - GRAIN)
            score_1J, index_1J = _ranked(bank_ND, query_1D, candidates_J[None])
            scores_MK[m], indices_MK[m] = score_1J[0, :k], index_1J[0, :k]
    return scores_MK, indices_MK


def vote(
    scores_MK: np.ndarray,
    labels_MKF: np.ndarray,
    temperature: float = 0.07,
    default_F: np.ndarray | None = None,
) -> np.ndarray:
    """The neighbors' mean label of each finding, weighted by exp(score / temperature): (M, F) float64.

    Unknown labels (NaN) have no vote. Where all are unknown the result is `default_F`, such as how common the
    finding is in the bank (None: its mean over the labels given here); NaN where no label of a finding is known. The
    weighting is that of DINO (2104.14294, appendix on k-NN), findings side by side.
    """
    below_MK = (scores_MK - scores_MK.max(axis=1, keepdims=True)).astype(np.float64)
    weight_MK1 = np.exp(below_MK / temperature)[:, :, None]
    known_MKF = ~np.isnan(labels_MKF)
    label_MKF = np.where(known_MKF, labels_MKF, 0.0)
    if default_F is None:
        default_F = _ratio(label_MKF.sum(axis=(0, 1)), known_MKF.sum(axis=(0, 1)))
    voted_MF = _ratio((weight_MK1 * label_MKF).sum(axis=1), (weight_MK1 * known_MKF).sum(axis=1))
    return np.where(np.isnan(voted_MF), default_F, voted_MF)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def unit_vectors(vectors_ND: np.ndarray, whose: str = "the table") -> np.ndarray:
    """The vectors as float32 of length 1. Raises FeaturesError where one has no direction."""
    vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    if vectors_ND.ndim != 2:
        raise FeaturesError(f"{whose} has shape {vectors_ND.shape}; vectors must be (N, D)")
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    bad = int((~np.isfinite(length_N1) | (length_N1 == 0)).sum())
    if bad:
        raise FeaturesError(
            f"{bad} of {len(vectors_ND)} vectors of {whose} are NaN, infinite or zero and have no direction; "
            "check the backbone and extract them again"
        )
    return vectors_ND / length_N1


def _ranked(
    bank_ND: np.ndarray, queries_MD: np.ndarray, candidates_MK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and indices of the candidates by falling score, then rising index.

    Scored again one product at a time: a matrix product sums in an order that depends on the position, so
    that the same vector at two places of the bank can differ in its last bit and would not tie.
    """
    scores_MK = np.empty(candidates_MK.shape, np.float32)
    rows = max(1, BLOCK // max(1, candidates_MK.shape[1] * bank_ND.shape[1]))
    for start in range(0, len(candidates_MK), rows):
        part = slice(start, start + rows)
        scores_MK[part] = np.einsum("mkd,md->mk", bank_ND[candidates_MK[part]], queries_MD[part])
    order_MK = np.lexsort((candidates_MK, -scores_MK), axis=1)
    return np.take_along_axis(scores_MK, order_MK, 1), np.take_along_axis(candidates_MK, order_MK, 1)
