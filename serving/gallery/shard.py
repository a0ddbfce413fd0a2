"""The rows of a gallery from one id to another: their vectors, their part of the index, and candidates for queries.

A whole gallery is one shard; a divided one asks several the same and merges their candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .indexes import (
    ApproximateIndex,
    Candidates,
    ExactIndex,
    Index,
    brute_force,
    import_faiss,
    joined,
    load_index,
    part_of_index,
)
from .manifest import INDEX, METADATA, TAIL, VECTORS, DamagedGalleryError, GalleryManifest
from .metadata import ItemFilter, Metadata
from .vectors import exact_cosines, unit_blocks

# M queries, D dimensions, N rows.


@dataclass(frozen=True, slots=True, eq=False)
class ShardQuery:
    """What is sent to every shard: queries (M, D) float32 of length 1, and which rows may be found.

    count: rows to find for each query. effort: factor on how much of an approximate index is scanned. exact: whether to
    compare every row that may be found, without the index.
    """

    queries: np.ndarray
    where: ItemFilter
    count: int
    effort: int = 1
    exact: bool = False


class GalleryShard:
    """The rows start <= id < stop of one version; safe to use from several threads.

    Raises FileNotFoundError for a missing file, GalleryError for a damaged one.
    """

    def __init__(self, version: Path, manifest: GalleryManifest, start: int, stop: int) -> None:
        self.manifest, self.start, self.stop = manifest, start, stop
        self.metadata = Metadata(version / METADATA, manifest.findings)
        self._stored = load_vectors(version / VECTORS, manifest.indexed, manifest.dimensions)
        self._tail = np.empty((0, manifest.dimensions), np.float16)
        if manifest.tail:
            self._tail = load_vectors(version / TAIL, manifest.tail, manifest.dimensions)
        self._index = self._open_index(version)
        first = max(start, manifest.indexed)
        tail = self._tail[first - manifest.indexed : max(stop - manifest.indexed, 0)]
        self._tail_index = flat_index(tail, first) if len(tail) else None
        self._allowed = lru_cache(maxsize=8)(self._allowed_rows)

    def _open_index(self, version: Path) -> Index | None:
        manifest, start, stop = self.manifest, self.start, min(self.stop, self.manifest.indexed)
        if start >= stop:
            return None
        whole = (start, stop) == (0, manifest.indexed)
        if manifest.kind == "flat" and not whole:
            return flat_index(self._stored[start:stop], start)
        index = load_index(version / INDEX)
        if index.ntotal != manifest.indexed or index.d != manifest.dimensions:
            raise DamagedGalleryError(
                f"{version / INDEX}: not the index of this gallery; copy the gallery again"
            )
        if manifest.kind == "flat":
            return ExactIndex(index, 0)
        if whole:
            return ApproximateIndex(index, manifest.kind, manifest.nprobe)
        return part_of_index(index, manifest.kind, manifest.nprobe, start, stop)

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The float16 vectors of rows of the gallery, also of other shards', (K, D)."""
        if not self.manifest.tail:
            return self._stored[ids]
        in_tail = ids >= self.manifest.indexed
        rows = np.empty((len(ids), self.manifest.dimensions), np.float16)
        rows[~in_tail] = self._stored[ids[~in_tail]]
        rows[in_tail] = self._tail[ids[in_tail] - self.manifest.indexed]
        return rows

    def candidates(self, query: ShardQuery) -> list[Candidates]:
        """Rows of this shard that may be among the nearest, for each query, with exact scores."""
        allowed = self._allowed(query.where)
        if query.exact:
            ids = np.arange(self.start, self.stop) if allowed is None else np.flatnonzero(allowed)
            found = [brute_force(self.vectors(ids), ids, query.queries, query.count)]
        else:
            found = []
            for index in (self._index, self._tail_index):
                if index is not None:
                    rows = self._rows_for(index, allowed)
                    found.append(index.search(query.queries, query.count, rows, query.effort))
        return [
            joined([self._scored(*part[m], query.queries[m]) for part in found])
            for m in range(len(query.queries))
        ]

    def _rows_for(self, index: Index, allowed_N: np.ndarray | None) -> np.ndarray | None:
        """The part of the mask that speaks of an index's rows; an exact index counts its rows from 0."""
        if allowed_N is None or isinstance(index, ApproximateIndex):
            return allowed_N
        return allowed_N[index.first : index.first + index.index.ntotal]

    def _scored(self, ids: np.ndarray, estimates: np.ndarray, query_D: np.ndarray) -> Candidates:
        return Candidates(ids, estimates, exact_cosines(self.vectors(ids), query_D))

    def _allowed_rows(self, where: ItemFilter) -> np.ndarray | None:
        """Bool for each id below `stop`, whether it is in this shard and may be found; None where all of it may.

        The masks of the last eight filters are kept (as `_allowed`).
        """
        if not where:
            if not len(self.metadata.deleted):
                return None
            mask = np.ones(self.stop, bool)
            mask[: self.start] = False
            mask[self.metadata.deleted[self.metadata.deleted < self.stop]] = False
            return mask
        mask = np.zeros(self.stop, bool)
        mask[self.metadata.ids(where, self.start, self.stop)] = True
        return mask

    def close(self) -> None:
        """Closes the files."""
        self.metadata.close()

    def __repr__(self) -> str:
        return f"GalleryShard(rows {self.start} to {self.stop - 1})"


def flat_index(stored_ND: np.ndarray, first: int) -> ExactIndex:
    """A flat index of float16 rows."""
    index = import_faiss().IndexFlatIP(stored_ND.shape[1])
    for _, rows_ND in unit_blocks(stored_ND):
        index.add(rows_ND)
    return ExactIndex(index, first)


def load_vectors(path: Path, rows: int, dimensions: int) -> np.ndarray:
    """A memory-mapped float16 array. Raises FileNotFoundError, or GalleryError where it has another shape."""
    try:
        stored: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        stored = None
    if stored is None or (stored.shape, stored.dtype) != ((rows, dimensions), np.float16):
        raise DamagedGalleryError(
            f"{path}: damaged; copy the gallery again, or build it with `vetdino index build`"
        )
    return stored
