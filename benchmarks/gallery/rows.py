"""Clustered vectors as a gallery's rows, the exact answer, and how long one query takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from vetdino.platform.measure.features import Features
from vetdino.platform.measure.probes import Probes, probe_pictures
from vetdino.serving.gallery.build import RowSource

# N vectors, Q queries, D dimensions.

PART = 16_384
MATCHES = 10


def clustered(count: int, dimensions: int, seed: int, clusters: int = 2000) -> np.ndarray:
    """(N, D) float32 unit vectors around common centers, which lie in groups, as studies of one body part do."""
    random = np.random.default_rng(0)
    groups = random.normal(size=(20, dimensions))
    centers = groups[random.integers(0, 20, clusters)] + random.normal(size=(clusters, dimensions))
    random = np.random.default_rng((1, seed))
    points = centers[random.integers(0, clusters, count)] + 0.7 * random.normal(size=(count, dimensions))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


class ClusteredSource(RowSource):
    """Rows that are drawn a part at a time: three of a patient, two findings, one projection."""

    level, findings, backbone, data = "study", ("mass", "fluid"), "b" * 64, ("d" * 64,)

    def __init__(self, rows: int, dimensions: int) -> None:
        self.rows, self.dimensions = rows, dimensions
        self.probes = Probes(probe_pictures(), clustered(8, dimensions, seed=-1 % 2**32))

    def vectors(self) -> Iterator[np.ndarray]:
        """All vectors in parts, float32."""
        for number, start in enumerate(range(0, self.rows, PART)):
            yield clustered(min(PART, self.rows - start), self.dimensions, number)

    def batches(self) -> Iterator[Features]:
        start = 0
        for part in self.vectors():
            rows = range(start, start + len(part))
            labels = np.random.default_rng(start).choice([0.0, 0.0, 0.0, 1.0, np.nan], size=(len(part), 2))
            yield Features(
                keys=tuple(f"{row:024x}" for row in rows),
                patients=tuple(f"{row // 3:024x}" for row in rows),
                splits=("train",) * len(part),
                views=("",) * len(part),
                vectors=part,
                findings=self.findings,
                labels=labels.astype(np.float32),
                backbone=self.backbone,
                manifest=self.data[0],
                projections=tuple("LLAT VD" if row % 2 else "VD" for row in rows),
            )
            start += len(part)


def exact_bounds(source: ClusteredSource, queries_QD: np.ndarray) -> np.ndarray:
    """Cosine of each query's tenth nearest vector, by comparing all of them in float32, (Q,)."""
    best_QK = np.full((len(queries_QD), MATCHES), -2.0, np.float32)
    for part in source.vectors():
        both = np.concatenate([best_QK, queries_QD @ part.T], axis=1)
        best_QK = np.partition(both, -MATCHES, axis=1)[:, -MATCHES:]
    return best_QK.min(axis=1)


def recall(
    source: ClusteredSource, queries_QD: np.ndarray, bounds_Q: np.ndarray, ids_QK: np.ndarray
) -> float:
    """Share of the matches that are, in float32, no farther than the tenth nearest (within rounding)."""
    cosines = np.empty(ids_QK.shape, np.float32)
    start = 0
    for part in source.vectors():
        inside = (ids_QK >= start) & (ids_QK < start + len(part))
        for query, place in np.argwhere(inside):
            cosines[query, place] = part[ids_QK[query, place] - start] @ queries_QD[query]
        start += len(part)
    return float((cosines >= bounds_Q[:, None] - 1e-6).mean())


def seconds_each(run: Callable[[np.ndarray], object], queries_QD: np.ndarray) -> dict[str, float]:
    """Milliseconds of single queries: median and 99th percentile of wall time, mean processor time."""
    walls = []
    began = time.process_time()
    for query_D in queries_QD:
        wall = time.perf_counter()
        run(query_D[None])
        walls.append(time.perf_counter() - wall)
    cpu = time.process_time() - began
    p50, p99 = np.percentile(walls, [50, 99])
    return {"p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "cpu_ms": 1e3 * cpu / len(queries_QD)}
