"""`python -m benchmarks.gallery`: galleries of all kinds of index, each in its own process, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.step.measure import peak_memory
from vetdino.platform.measure.features import Features
from vetdino.platform.measure.probes import Probes, probe_pictures
from vetdino.serving.gallery.build import RowSource, build
from vetdino.serving.gallery.config import IndexConfig
from vetdino.serving.gallery.gallery import Gallery

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


def measured(args: argparse.Namespace, kind: str, folder: Path) -> dict[str, Any]:
    """One gallery: built, opened, searched."""
    source = ClusteredSource(args.vectors, args.dimensions)
    queries_QD = clustered(args.queries, args.dimensions, seed=10**6)
    before = peak_memory(torch.device("cpu"))
    wall, cpu = time.perf_counter(), time.process_time()
    manifest = build(source, folder, IndexConfig(index=kind))
    built = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    grown = peak_memory(torch.device("cpu")) - before
    wall = time.perf_counter()
    gallery = Gallery.open(folder)
    opened = time.perf_counter() - wall
    matches = gallery.search(queries_QD, MATCHES)
    ids_QK = np.array([[match.item.id for match in each] for each in matches])
    filters: dict[str, Any] = {
        "plain": {},
        "another patient": {"exclude_patient": matches[0][0].item.patient},
        "a finding": {"findings": {"mass": True}},
    }
    for where in filters.values():
        gallery.search(queries_QD[:20], MATCHES, **where)  # warm-up
    return {
        "factory": manifest.factory,
        "nprobe": manifest.nprobe,
        "rerank": manifest.rerank,
        "build": built,
        "build_memory_mib": grown / 2**20,
        "card_recall": manifest.recall.value,
        "recall": recall(source, queries_QD, exact_bounds(source, queries_QD), ids_QK),
        "open_s": opened,
        "mib": {name: record.bytes / 2**20 for name, record in manifest.files.items()},
        "search": {
            name: seconds_each(lambda query, where=where: gallery.search(query, MATCHES, **where), queries_QD)
            for name, where in filters.items()
        },
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as lines of text."""
    heads = (
        "build s",
        "cpu s",
        "index MiB",
        "all MiB",
        "open s",
        "recall@10",
        "p50 ms",
        "p99 ms",
        "cpu ms",
        "filtered",
    )
    lines = [" " * 22 + "".join(f"{head:>10}" for head in heads)]
    for result in results.values():
        search = result["search"]
        cells = (
            f"{result['build']['wall']:.1f}",
            f"{result['build']['cpu']:.1f}",
            f"{result['mib']['index.faiss']:.0f}",
            f"{sum(result['mib'].values()):.0f}",
            f"{result['open_s']:.2f}",
            f"{result['recall']:.4f}",
            f"{search['plain']['p50_ms']:.2f}",
            f"{search['plain']['p99_ms']:.2f}",
            f"{search['plain']['cpu_ms']:.2f}",
            f"{search['a finding']['p50_ms']:.2f}",
        )
        lines.append(f"{result['factory']:22}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=300, help="queries, none of which is in the gallery")
    parser.add_argument(
        "--index", nargs="+", default=["flat", "ivf", "hnsw"], choices=("flat", "ivf", "hnsw")
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("gallery.json"), help="file for the results")
    return parser.parse_args(arguments)


def measured_alone(args: argparse.Namespace, arguments: list[str], kind: str) -> dict[str, Any]:
    """`measured` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.gallery", *arguments, "--one", kind]
    threads = {f"{library}_NUM_THREADS": str(args.threads) for library in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | threads)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    args = parse_args()
    if args.one:
        faiss.omp_set_num_threads(args.threads)
        with (
            tempfile.TemporaryDirectory(prefix="vetdino-gallery-") as folder,
            threadpool_limits(args.threads),
        ):
            print(json.dumps(measured(args, args.one, Path(folder) / "gallery")))
        return
    results = {kind: measured_alone(args, sys.argv[1:], kind) for kind in args.index}
    print(table(results))
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "faiss": faiss.__version__}
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": results}, indent=1) + "\n"
    )
    print(args.out)


if __name__ == "__main__":
    main()
