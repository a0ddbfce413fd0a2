"""The same vectors in Qdrant's engine, in this process: `qdrant-edge-py`, without the network of its server."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gallery.rows import MATCHES, ClusteredSource, seconds_each
from benchmarks.step.measure import peak_memory

LINKS, CANDIDATES = 16, 100
"""Qdrant's own defaults of its HNSW: `m`, and `ef_construct`, which is also `ef` of a search."""


class QdrantGallery:
    """One shard of Qdrant: vectors, patients and one finding."""

    def __init__(self, folder: Path, dimensions: int, threads: int) -> None:
        import qdrant_edge as qdrant

        self.qdrant = qdrant
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(size=dimensions, distance=qdrant.Distance.Cosine),
            hnsw_config=qdrant.HnswIndexConfig(
                m=LINKS, ef_construct=CANDIDATES, full_scan_threshold=10_000, max_indexing_threads=threads
            ),
            optimizers=qdrant.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=10_000),
            max_search_threads=threads,
        )
        folder.mkdir()
        self.shard = qdrant.EdgeShard.create(str(folder), config)

    def build(self, source: ClusteredSource) -> None:
        """Adds all rows and makes the index."""
        qdrant, first = self.qdrant, 0
        for field, kind in (("patient", "Keyword"), ("mass", "Bool")):
            schema = getattr(qdrant.PayloadSchemaType, kind)
            self.shard.update(qdrant.UpdateOperation.create_field_index(field, schema))
        for batch in source.batches():
            rows = zip(batch.vectors, batch.patients, batch.labels[:, 0] == 1, strict=True)
            points = [
                qdrant.Point(first + number, vector.tolist(), {"patient": patient, "mass": bool(mass)})
                for number, (vector, patient, mass) in enumerate(rows)
            ]
            self.shard.update(qdrant.UpdateOperation.upsert_points(points))
            first += len(points)
        self.shard.optimize()
        self.shard.flush()

    def search(self, query_1D: np.ndarray, count: int, where: Any = None) -> list[int]:
        """The nearest rows of one query."""
        qdrant = self.qdrant
        request = qdrant.QueryRequest(
            limit=count,
            query=qdrant.Query.Nearest(query_1D[0].tolist()),
            filter=where,
            params=qdrant.SearchParams(hnsw_ef=CANDIDATES),
        )
        return [point.id for point in self.shard.query(request)]

    def without(self, patient: str) -> Any:
        """A filter that leaves out a patient."""
        return self.qdrant.Filter(must_not=[self._is("patient", patient)])

    def with_mass(self) -> Any:
        """A filter for a finding."""
        return self.qdrant.Filter(must=[self._is("mass", True)])

    def _is(self, field: str, value: Any) -> Any:
        return self.qdrant.FieldCondition(key=field, match=self.qdrant.MatchValue(value))


def measured(
    args: argparse.Namespace, source: ClusteredSource, queries_QD: np.ndarray, folder: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows found, (Q, 10), and what `benchmarks.gallery` says of a gallery, but for its recall."""
    before = peak_memory(torch.device("cpu"))
    wall, cpu = time.perf_counter(), time.process_time()
    gallery = QdrantGallery(folder, args.dimensions, args.threads)
    gallery.build(source)
    built = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    grown = peak_memory(torch.device("cpu")) - before
    ids_QK = np.array([gallery.search(query_D[None], MATCHES) for query_D in queries_QD])
    filters = {
        "plain": None,
        "another patient": gallery.without(f"{0:024x}"),
        "a finding": gallery.with_mass(),
    }
    size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    facts = {
        "factory": f"Qdrant HNSW{LINKS}",
        "build": built,
        "build_memory_mib": grown / 2**20,
        "open_s": float("nan"),
        "mib": {"index.faiss": float("nan"), "all": size / 2**20},
        "search": {
            name: seconds_each(lambda query, where=where: gallery.search(query, MATCHES, where), queries_QD)
            for name, where in filters.items()
        },
    }
    return ids_QK, facts
