"""`python -m benchmarks.gallery`: galleries of all kinds of index, each in its own process, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.gallery import qdrant
from benchmarks.gallery.rows import MATCHES, ClusteredSource, clustered, exact_bounds, recall, seconds_each
from benchmarks.step.measure import peak_memory
from vetdino.serving.gallery.build import build
from vetdino.serving.gallery.config import IndexConfig
from vetdino.serving.gallery.gallery import Gallery


def measured(args: argparse.Namespace, kind: str, folder: Path) -> dict[str, Any]:
    """One gallery: built, opened, searched."""
    source = ClusteredSource(args.vectors, args.dimensions)
    queries_QD = clustered(args.queries, args.dimensions, seed=10**6)
    if kind == "qdrant":
        ids_QK, facts = qdrant.measured(args, source, queries_QD, folder)
        return facts | {"recall": recall(source, queries_QD, exact_bounds(source, queries_QD), ids_QK)}
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
            f"{np.nansum(list(result['mib'].values())):.0f}",
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
    kinds = ("flat", "ivf", "hnsw", "qdrant")
    parser.add_argument("--index", nargs="+", default=kinds[:3], choices=kinds)
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
