"""A gallery built from a feature table, or from the rows of another gallery: one pass over the rows, then the index.

N rows, M queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.core.progress import Progress
from ...platform.measure.descriptors import Level
from ...platform.measure.features import GROUP, Features, FeatureTable
from ...platform.measure.neighbors import unit_vectors
from ...platform.measure.probes import Probes
from .bundle import Draft, new_draft
from .config import IndexConfig, IndexKind
from .indexes import ApproximateIndex, ExactIndex, build_index, import_faiss
from .manifest import INDEX, METADATA, VECTORS, GalleryManifest, MeasuredRecall
from .metadata import MetadataWriter
from .vectors import best_first, exact_cosines, exact_search, unit_rows

QUERIES, MATCHES = 256, 10
"""Queries that the recall is measured with, and matches of each."""

ENOUGH = 0.99
"""Recall up to which a build makes its searches do more."""

NPROBE, RERANK = 32, 100
"""Lists to scan (or candidates in a graph), and candidates to score again exactly: what is tried first."""

MOST_RERANK = 1600


class RowSource:
    """Rows to build a gallery from, in parts, with what holds for all of them.

    rows: how many. probes: of the backbone that made the vectors.
    """

    rows: int
    level: Level
    dimensions: int
    findings: tuple[str, ...]
    backbone: str
    data: tuple[str, ...]
    probes: Probes

    def batches(self) -> Iterator[Features]:
        """All rows in order; vectors of length 1, or as a gallery keeps them."""
        raise NotImplementedError


class TableSource(RowSource):
    """The rows of a feature table's files, a part at a time.

    Raises FeaturesError for a damaged one, GalleryError for one without rows or without probes.
    """

    def __init__(self, path: Path | str) -> None:
        self.table = FeatureTable(path)
        head = self.table.head
        if self.table.level == "patch":
            raise GalleryError(
                f"{self.table.path}: a table of patches, a gallery is of studies or views; embed with --level study"
            )
        if not self.table.rows:
            raise GalleryError(f"{self.table.path}: a table without rows; embed shards that hold studies")
        if head.probes is None:
            raise GalleryError(
                f"{self.table.path}: has no probes, by which a gallery knows its backbone again; write it anew with "
                "`vetdino embed`"
            )
        self.rows, self.dimensions = self.table.rows, head.vectors.shape[1]
        self.level = "view" if self.table.level == "view" else "study"
        self.findings, self.backbone, self.data = head.findings, head.backbone, (head.manifest,)
        self.probes = head.probes

    def batches(self) -> Iterator[Features]:
        for features in self.table.batches():
            yield _with_unit_vectors(features, str(self.table.path))


class FeaturesSource(RowSource):
    """The rows of a feature table in memory, which has probes."""

    def __init__(self, features: Features) -> None:
        if features.probes is None or not len(features) or features.level == "patch":
            raise GalleryError(
                "a gallery needs features of at least one study, and with probes, none of patches"
            )
        self.features = features
        self.rows, self.dimensions = features.vectors.shape
        self.level = "view" if features.level == "view" else "study"
        self.findings, self.backbone = features.findings, features.backbone
        self.data, self.probes = (features.manifest,), features.probes

    def batches(self) -> Iterator[Features]:
        for start in range(0, self.rows, GROUP):
            part = self.features.rows(np.arange(start, min(start + GROUP, self.rows)))
            yield _with_unit_vectors(part, "the features")


def _with_unit_vectors(features: Features, whose: str) -> Features:
    """The vectors at length 1. float16 stays as it is, so that a gallery of it equals one of the float32 table."""
    units = unit_vectors(features.vectors, whose)
    return features if features.vectors.dtype == np.float16 else replace(features, vectors=units)


def build(source: RowSource, bundle: Path, config: IndexConfig | None = None) -> GalleryManifest:
    """Builds a gallery and puts it in use; one that was at this path stays in use until then.

    Raises GalleryError where the folder holds something else or a row comes twice, and what the source raises.
    """
    with new_draft(bundle) as draft:
        return fill(draft, source, config or IndexConfig())


def fill(draft: Draft, source: RowSource, config: IndexConfig) -> GalleryManifest:
    """Writes all files of a version and publishes it. Raises as `build`."""
    kind = config.kind(source.rows)
    projections = _write_rows(source, draft)
    stored_ND = np.load(draft.folder / VECTORS, mmap_mode="r")
    index, factory = build_index(stored_ND, kind)
    effort, recall = measured_recall(index, kind, stored_ND)
    faiss = import_faiss()
    faiss.write_index(index, str(draft.folder / INDEX))
    manifest = GalleryManifest(
        backbone=source.backbone,
        level=source.level,
        dimensions=source.dimensions,
        data=source.data,
        findings=source.findings,
        projections=projections,
        index=config.index,
        kind=kind,
        factory=factory,
        lists=index.nlist if kind == "ivf" else 0,
        nprobe=effort.nprobe,
        rerank=effort.rerank,
        indexed=source.rows,
        recall=recall,
        probes=source.probes.to_json(),
        faiss=str(faiss.__version__),
    )
    return draft.publish(manifest)


def write_vectors(path: Path, rows: int, dimensions: int) -> np.memmap:
    """An empty float16 array in a file, (rows, dimensions), to be filled."""
    return np.lib.format.open_memmap(path, "w+", np.float16, (rows, dimensions))


def _write_rows(source: RowSource, draft: Draft) -> tuple[str, ...]:
    """Vectors and what is known of them, a part at a time; the projections that occur."""
    stored_ND = write_vectors(draft.folder / VECTORS, source.rows, source.dimensions)
    done = 0
    with (
        Progress("index", source.rows, "rows") as progress,
        MetadataWriter(draft.folder / METADATA, source.findings) as metadata,
    ):
        metadata.create()
        for features in source.batches():
            stored_ND[done : done + len(features)] = features.vectors
            metadata.add(features, done)
            done += len(features)
            progress.advance(len(features))
        metadata.index()
        projections = metadata.projections()
    assert done == source.rows
    stored_ND.flush()
    return projections


@dataclass(frozen=True, slots=True)
class SearchEffort:
    """How much an approximate index scans and scores again; zeros for a flat one."""

    nprobe: int = 0
    rerank: int = 0


def measured_recall(
    index: Any, kind: IndexKind, stored_ND: np.ndarray
) -> tuple[SearchEffort, MeasuredRecall]:
    """How much of the exact nearest an index finds, and the effort that this takes.

    A match counts where its exact cosine is no less than that of the k-th nearest, so ties cannot be missed. An
    approximate index does twice as much at a time until it finds ENOUGH, or all lists are scanned.
    """
    count = len(stored_ND)
    k = min(MATCHES, count - 1)
    most = index.nlist if kind == "ivf" else count
    effort = SearchEffort() if kind == "flat" else SearchEffort(min(NPROBE, most), RERANK)
    if not k:
        return effort, MeasuredRecall(k=0, queries=0, value=1.0)
    rows = np.sort(np.random.default_rng(1).permutation(count)[:QUERIES])
    queries_MD = unit_rows(stored_ND[rows])
    exact_ids, exact_scores = exact_search(stored_ND, queries_MD, k + 1)
    bounds = [
        scores[ids != row][k - 1] for row, ids, scores in zip(rows, exact_ids, exact_scores, strict=True)
    ]
    while True:
        if kind == "flat":
            found = ExactIndex(index, 0).search(queries_MD, k + 1, None)
        else:
            found = ApproximateIndex(index, kind, effort.nprobe).search(queries_MD, effort.rerank + 1, None)
        hits = sum(
            _hits(stored_ND, query_D, row, ids, k, bound)
            for query_D, row, (ids, _), bound in zip(queries_MD, rows, found, bounds, strict=True)
        )
        value = hits / (k * len(rows))
        more = SearchEffort(min(2 * effort.nprobe, most), min(2 * effort.rerank, MOST_RERANK))
        if value >= ENOUGH or kind == "flat" or more == effort:
            return effort, MeasuredRecall(k=k, queries=len(rows), value=round(value, 5))
        effort = more


def _hits(stored_ND: np.ndarray, query_D: np.ndarray, row: int, ids: np.ndarray, k: int, bound: float) -> int:
    """How many of the k best candidates are among the exact k nearest; the query's own row is left out."""
    ids = ids[ids != row]
    scores = exact_cosines(stored_ND[ids], query_D)
    return int((scores[best_first(ids, scores, k)] >= bound).sum())
