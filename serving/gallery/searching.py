"""A search: shards give candidates, which are merged, freed of excluded patients and ranked.

The answer does not depend on the number of shards: an approximate index's candidates are cut to the best by estimate
after they are merged, as one shard cuts its own, and ranked by exact cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.measure.neighbors import unit_vectors
from .indexes import Candidates, candidate_count, joined
from .manifest import GalleryManifest
from .metadata import GalleryItem, ItemFilter, Metadata, item_filter
from .shard import ShardQuery
from .vectors import best_first

# M queries, D dimensions.

EXACT_BELOW = 2000
"""Where a filter leaves fewer rows than this of an approximate index, they are all compared."""

Ask = Callable[[ShardQuery], list[list[Candidates]]]
"""The candidates of every shard, for each query."""

Excluded = str | Sequence[str | Sequence[str] | None] | None
"""Patients whose rows are not to be found: one for all queries, one (or several, or None) for each, or none."""


@dataclass(frozen=True, slots=True)
class GalleryMatch:
    """A row similar to a query, and its cosine."""

    item: GalleryItem
    score: float

    def __repr__(self) -> str:
        return f"GalleryMatch({self.item.key}, cosine {self.score:.4f})"


class Searcher:
    """Searches the shards that `ask` reaches."""

    def __init__(self, manifest: GalleryManifest, metadata: Metadata, ask: Ask) -> None:
        self.manifest, self.metadata, self.ask = manifest, metadata, ask

    def search(
        self,
        vectors_MD: np.ndarray,
        k: int,
        exclude_patient: Excluded,
        findings: Mapping[str, bool] | None,
        projections: Sequence[str] | None,
        split: str | None,
    ) -> list[list[GalleryMatch]]:
        """See `Gallery.search`."""
        queries_MD = self._queries(vectors_MD)
        if k < 1:
            raise GalleryError(f"k is {k}; ask for at least one match")
        where = item_filter(self.manifest, findings, projections, split)
        excluded = self._excluded_ids(exclude_patient, len(queries_MD))
        available = self.metadata.count_of(where) if where else self.metadata.count
        if not available:
            return [[] for _ in queries_MD]
        ranked = self._ranked(queries_MD, k, where, excluded, available)
        items = self.metadata.items({int(id) for ids, _ in ranked for id in ids})
        return [
            [GalleryMatch(items[int(id)], float(score)) for id, score in zip(ids, scores, strict=True)]
            for ids, scores in ranked
        ]

    def _ranked(
        self, queries_MD: np.ndarray, k: int, where: ItemFilter, excluded: list[np.ndarray], available: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(ids, scores) of the k best of each query. `available`: rows that pass the filter."""
        manifest = self.manifest
        is_exact = manifest.kind == "flat" or (bool(where) and available <= EXACT_BELOW)
        ranked: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(queries_MD)
        open_queries = list(range(len(queries_MD)))
        # As many rows that may be found are scanned with a filter as without one.
        effort = 1 if is_exact else max(1, round(manifest.rows / available))
        factor = 1
        while open_queries:
            wanted = [
                min(
                    (k if is_exact else candidate_count(k, manifest.rerank) * factor) + len(excluded[m]),
                    manifest.rows,
                )
                for m in open_queries
            ]
            exact = is_exact and manifest.kind != "flat"
            query = ShardQuery(queries_MD[open_queries], where, max(wanted), effort * factor, exact)
            merged = [joined(parts) for parts in zip(*self.ask(query), strict=True)]
            for m, count, candidates in zip(open_queries, wanted, merged, strict=True):
                ranked[m] = _best(candidates, count, excluded[m], k)
            # An approximate index may have missed some for a query whose patient has many rows.
            is_complete = is_exact or (min(wanted) >= manifest.rows and self._scans_all(effort * factor))
            open_queries = [] if is_complete else [m for m in open_queries if len(ranked[m][0]) < k]
            factor *= 2
        return ranked

    def _scans_all(self, effort: int) -> bool:
        """Whether more effort finds nothing more."""
        return self.manifest.kind == "hnsw" or self.manifest.nprobe * effort >= self.manifest.lists

    def _queries(self, vectors_MD: np.ndarray) -> np.ndarray:
        vectors_MD = np.asarray(vectors_MD)
        dimensions = self.manifest.dimensions
        if vectors_MD.ndim != 2 or vectors_MD.shape[1] != dimensions:
            raise GalleryError(
                f"queries have shape {vectors_MD.shape}; this gallery needs (queries, {dimensions})"
            )
        if vectors_MD.dtype.kind not in "fiu":
            raise GalleryError(f"queries are of type {vectors_MD.dtype}; this gallery needs real numbers")
        return unit_vectors(vectors_MD, "the queries")

    def _excluded_ids(self, patients: Excluded, queries: int) -> list[np.ndarray]:
        """Ids of the rows that each query must not find."""
        each = [patients] * queries if patients is None or isinstance(patients, str) else list(patients)
        if len(each) != queries:
            raise GalleryError(f"{len(each)} patients to leave out for {queries} queries; give one for each")
        nobody = np.empty(0, np.int64)
        return [
            np.unique(np.concatenate([nobody, *map(self.metadata.of_patient, _patients(one))]))
            for one in each
        ]


def _patients(each: str | Sequence[str] | None) -> Sequence[str]:
    if each is None:
        return ()
    return (each,) if isinstance(each, str) else each


def _best(candidates: Candidates, count: int, excluded: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, scores) of the k best: first the `count` best by estimate (with ties), then by exact score, then by id."""
    kept = np.ones(len(candidates.ids), bool)
    estimated = np.isfinite(candidates.estimates)
    if estimated.sum() > count:
        estimates = candidates.estimates[estimated]
        kept = candidates.estimates >= np.partition(estimates, len(estimates) - count)[len(estimates) - count]
    if len(excluded):
        kept &= ~np.isin(candidates.ids, excluded)
    ids, scores = candidates.ids[kept], candidates.scores[kept]
    order = best_first(ids, scores, k)
    return ids[order], scores[order]
