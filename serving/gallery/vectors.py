"""The vectors of a gallery as its files hold them (float16), and exact cosines with them.

A row's direction is what its float16 numbers say, made length 1 again: the cosine of a row with itself is 1.
Rounding a unit vector to float16 moves a cosine by some 1e-5.

N rows, M queries, D dimensions, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...platform.measure.neighbors import GRAIN

BLOCK = 16_384
"""Rows that are in memory as float32 at a time."""


def unit_rows(stored_ND: np.ndarray) -> np.ndarray:
    """float16 rows as float32 of length 1, (N, D)."""
    rows_ND = np.array(stored_ND, np.float32)
    rows_ND /= np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))[:, None]  # no other array of this size
    return rows_ND


def unit_blocks(stored_ND: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, unit rows) of each block of a memory-mapped array."""
    for start in range(0, len(stored_ND), BLOCK):
        yield start, unit_rows(stored_ND[start : start + BLOCK])


def exact_cosines(stored_KD: np.ndarray, query_D: np.ndarray) -> np.ndarray:
    """Cosines of float16 rows with one query, (K,) float32.

    Summed in float64 and rounded once: the same two vectors give the same number wherever they are, so equal rows tie.
    """
    rows_KD = stored_KD.astype(np.float64)
    query_D = np.asarray(query_D, np.float64)
    products_K = np.einsum("kd,d->k", rows_KD, query_D)
    lengths_K = np.sqrt(np.einsum("kd,kd->k", rows_KD, rows_KD) * np.einsum("d,d->", query_D, query_D))
    return (products_K / lengths_K).astype(np.float32)


def best_first(ids_K: np.ndarray, scores_K: np.ndarray, k: int) -> np.ndarray:
    """Places of the k best of some candidates: the larger score first, of equal scores the smaller id."""
    return np.lexsort((ids_K, -scores_K))[:k]


def near_best(rough_N: np.ndarray, count: int) -> np.ndarray:
    """Places of all rows that may be among the `count` best by exact cosine, given float32 cosines, in any order."""
    if count >= len(rough_N):
        return np.arange(len(rough_N))
    bound = np.partition(rough_N, len(rough_N) - count)[len(rough_N) - count]
    return np.flatnonzero(rough_N >= bound - GRAIN)


def exact_search(
    stored_ND: np.ndarray, queries_MD: np.ndarray, count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The rows of largest exact cosine for each query: ids and scores, best first, from one pass over all rows."""
    queries_MD = np.asarray(queries_MD, np.float32)
    kept = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries_MD]
    for start, rows_ND in unit_blocks(stored_ND):
        rough_MN = queries_MD @ rows_ND.T
        for m, rough_N in enumerate(rough_MN):
            places = near_best(rough_N, count)
            ids = np.concatenate([kept[m][0], start + places])
            scores = np.concatenate([kept[m][1], rough_N[places]])
            near = near_best(scores, count)
            kept[m] = ids[near], scores[near]
    ranked_ids, ranked_scores = [], []
    for query_D, (ids, _) in zip(queries_MD, kept, strict=True):
        scores = exact_cosines(stored_ND[ids], query_D)
        order = best_first(ids, scores, count)
        ranked_ids.append(ids[order])
        ranked_scores.append(scores[order])
    return ranked_ids, ranked_scores
