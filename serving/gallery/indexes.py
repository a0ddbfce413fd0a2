"""FAISS indexes of a gallery's vectors: how they are built, and the candidates they give.

M queries, D dimensions, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.measure.neighbors import GRAIN
from .config import IndexKind
from .manifest import DamagedGalleryError
from .vectors import near_best, unit_blocks, unit_rows

FOR_MATCHES = 10
"""Matches that the candidates of an approximate index (`rerank`) are enough for; more matches need more of them."""

PER_LIST = 64
"""Training vectors for each list of an IVF index."""

LINKS = 16
"""Links of a vector in a graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that may be among the nearest of one query: ids (K,) int64, estimates (K,) float32, scores (K,) float32.

    estimates: the index's cosine, infinite for rows that were found exactly. scores: exact cosines.
    """

    ids: np.ndarray
    estimates: np.ndarray
    scores: np.ndarray


def import_faiss() -> Any:
    """FAISS, untyped: its stubs do not know what its Python layer adds. It takes a while to import."""
    return import_module("faiss")


def build_index(stored_ND: np.ndarray, kind: IndexKind) -> tuple[Any, str]:
    """An index of float16 rows and FAISS's name for it; the same rows give the same index (flat, ivf)."""
    count, dimensions = stored_ND.shape
    lists = min(count, int(4 * math.sqrt(count)))
    factory = {"flat": "Flat", "ivf": f"IVF{lists},RaBitQ", "hnsw": f"HNSW{LINKS}"}[kind]
    faiss = import_faiss()
    index = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
    if kind == "ivf":
        index.cp.min_points_per_centroid = 1
        chosen = np.random.default_rng(0).permutation(count)[: PER_LIST * lists]
        index.train(unit_rows(stored_ND[np.sort(chosen)]))
    for _, rows_ND in unit_blocks(stored_ND):
        index.add(rows_ND)
    return index, factory


def load_index(path: Path) -> Any:
    """The index of a file. Raises GalleryError where it is damaged."""
    try:
        return import_faiss().read_index(str(path))
    except RuntimeError:
        raise DamagedGalleryError(
            f"{path}: damaged; copy the gallery again, or build it with `vetdino index build`"
        ) from None


class ExactIndex:
    """Every row compared. index: a flat FAISS index of the rows from `first` on."""

    def __init__(self, index: Any, first: int) -> None:
        self.index, self.first = index, first

    def search(
        self, queries_MD: np.ndarray, count: int, allowed_N: np.ndarray | None, effort: int = 1
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (ids, infinity) of all rows that may be among its `count` best.

        allowed_N: bool, for each row whether it may be found; None: all may.
        """
        selector, _bits = _selector(allowed_N)
        parameters = import_faiss().SearchParameters(sel=selector) if selector else None
        wanted = min(count + 1, self.index.ntotal)
        rough_MK, rows_MK = self.index.search(queries_MD, wanted, params=parameters)
        found = []
        for m in range(len(queries_MD)):
            rows = rows_MK[m][rows_MK[m] >= 0]
            if len(rows) > count and rough_MK[m, count - 1] - rough_MK[m, count] < GRAIN:
                # FAISS may have kept the wrong ones of several that tie for the last place.
                bound = float(rough_MK[m, count - 1]) - GRAIN
                _, _, rows = self.index.range_search(queries_MD[m : m + 1], bound, params=parameters)
            found.append((rows.astype(np.int64) + self.first, np.full(len(rows), np.inf, np.float32)))
        return found


class ApproximateIndex:
    """Lists of 1-bit codes, or a graph: candidates by estimated cosine.

    index: an IVF or HNSW index. nprobe: lists to scan, or candidates to keep in the graph, at effort 1.
    """

    def __init__(self, index: Any, kind: IndexKind, nprobe: int) -> None:
        self.index, self.kind, self.nprobe = index, kind, nprobe

    def search(
        self, queries_MD: np.ndarray, count: int, allowed_N: np.ndarray | None, effort: int = 1
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (ids, estimates) of the `count` best rows by estimate, with all that tie for the last place.

        allowed_N: bool, for each row of the gallery whether it may be found. effort: factor on `nprobe`.
        """
        selector, _bits = _selector(allowed_N)
        parameters = self._parameters(selector, count, effort)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for m, (estimates, rows) in enumerate(
            zip(*self._best(queries_MD, count + 1, parameters), strict=True)
        ):
            more = count + 1
            while len(rows) == more <= self.index.ntotal and estimates[count - 1] == estimates[-1]:
                # Equal rows have equal codes: which of them FAISS keeps depends on how it counts, so all are kept.
                more *= 2
                parameters = self._parameters(selector, more, effort)
                (estimates,), (rows,) = self._best(queries_MD[m : m + 1], more, parameters)
            if len(rows) > count:
                kept = estimates >= estimates[count - 1]
                estimates, rows = estimates[kept], rows[kept]
            found.append((rows, estimates))
        return found

    def _best(
        self, queries_MD: np.ndarray, count: int, parameters: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        estimates_MK, rows_MK = self.index.search(queries_MD, count, params=parameters)
        there = [rows >= 0 for rows in rows_MK]
        return (
            [row[kept] for row, kept in zip(estimates_MK, there, strict=True)],
            [row[kept].astype(np.int64) for row, kept in zip(rows_MK, there, strict=True)],
        )

    def _parameters(self, selector: Any, count: int, effort: int) -> Any:
        faiss = import_faiss()
        chosen = {"sel": selector} if selector else {}
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(count, self.nprobe * effort), **chosen)
        return faiss.SearchParametersIVF(nprobe=min(self.index.nlist, self.nprobe * effort), **chosen)


Index = ExactIndex | ApproximateIndex


def part_of_index(index: Any, kind: IndexKind, nprobe: int, start: int, stop: int) -> ApproximateIndex:
    """An index of the rows start <= id < stop alone, which finds what the whole one finds of them."""
    if kind == "hnsw":
        raise GalleryError(
            "a graph (hnsw) cannot be divided among shards; build the gallery with --index ivf"
        )
    faiss = import_faiss()
    part = faiss.clone_index(index)
    part.reset()
    index.copy_subset_to(part, faiss.InvertedLists.SUBSET_TYPE_ID_RANGE, start, stop)
    return ApproximateIndex(part, kind, nprobe)


def brute_force(
    stored_ND: np.ndarray, ids_N: np.ndarray, queries_MD: np.ndarray, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `ExactIndex.search`, over these float16 rows and without an index."""
    rows_ND = unit_rows(stored_ND)
    found = []
    for query_D in queries_MD:
        near = near_best(rows_ND @ query_D, count)
        found.append((ids_N[near], np.full(len(near), np.inf, np.float32)))
    return found


def candidate_count(k: int, rerank: int) -> int:
    """Candidates of an approximate index that are scored again exactly to find the k best.

    >>> candidate_count(3, rerank=100), candidate_count(50, rerank=100)
    (100, 500)
    """
    return max(rerank, rerank * k // FOR_MATCHES)


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of one query from several places."""
    none = np.empty(0, np.float32)
    return Candidates(
        np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)]),
        np.concatenate([none, *(part.estimates for part in parts)]),
        np.concatenate([none, *(part.scores for part in parts)]),
    )


def _selector(allowed_N: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
    """FAISS's selector of these rows, and the bits that it points to, which must live as long."""
    if allowed_N is None:
        return None, None
    bits = np.packbits(allowed_N, bitorder="little")
    return import_faiss().IDSelectorBitmap(bits), bits
