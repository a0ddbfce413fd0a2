"""`python -m benchmarks.knn`: all contestants in turns in one process, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.step.measure import in_turns
from vetdino.platform.measure.neighbors import GRAIN, nearest

Neighbors = tuple[np.ndarray, np.ndarray]
"""Cosines (M, K), the largest first, and their rows (M, K) in the bank."""


def vectors(count: int, dimensions: int, seed: int, clusters: int = 200) -> np.ndarray:
    """(N, D) float32 unit vectors around common centers, clustered like those of a backbone."""
    centers = np.random.default_rng(0).normal(size=(clusters, dimensions))
    random = np.random.default_rng(seed)
    points = centers[random.integers(0, clusters, count)] + random.normal(size=(count, dimensions))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def contestants(bank_ND: np.ndarray, queries_MD: np.ndarray, k: int) -> dict[str, Callable[[], Neighbors]]:
    """Name -> search. scikit-learn by cosine, and by Euclidean distance of unit vectors: the same order, but faster."""
    from sklearn.neighbors import NearestNeighbors

    def sklearn_search(metric: str, to_cosine: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Neighbors]:
        def run() -> Neighbors:
            index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(bank_ND)
            distance_MK, row_MK = index.kneighbors(queries_MD)
            return to_cosine(distance_MK), row_MK

        return run

    return {
        "vetdino": lambda: nearest(bank_ND, queries_MD, k),
        "sklearn cosine": sklearn_search("cosine", lambda distance: 1 - distance),
        "sklearn euclidean": sklearn_search("euclidean", lambda distance: 1 - distance**2 / 2),
    }


def disagreements(one: Neighbors, other: Neighbors) -> int:
    """Number of queries whose neighbors differ by more than rounding: a cosine, or a row that is no tie for the last
    place."""
    cosine_MK, other_MK = one[0], other[0]
    differs_M = np.abs(cosine_MK - other_MK).max(axis=1) > 10 * GRAIN
    safe_MK = cosine_MK > cosine_MK[:, -1:] + 10 * GRAIN
    for m in range(len(cosine_MK)):
        differs_M[m] |= not set(one[1][m][safe_MK[m]]) <= set(other[1][m])
    return int(differs_M.sum())


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each, and the number of queries with other neighbors than ours."""
    bank_ND = vectors(args.train, args.dimensions, seed=1)
    queries_MD = vectors(args.test, args.dimensions, seed=2)
    runners = contestants(bank_ND, queries_MD, args.k)
    results: dict[str, Neighbors] = {}

    def timed(name: str) -> Callable[[], None]:
        return lambda: results.update({name: runners[name]()})

    clocks = in_turns({name: timed(name) for name in runners}, args.rounds, torch.device("cpu"))
    ours = clocks["vetdino"].summary
    return {
        name: {
            **clocks[name].summary,
            "times_ours": clocks[name].summary["cpu_min"] / ours["cpu_min"],
            "queries_answered_differently": disagreements(results["vetdino"], results[name]),
        }
        for name in runners
    }


def table(results: dict[str, Any]) -> str:
    """The results as lines of text."""
    heads = ("min s", "median s", "cpu s", "times ours", "differ")
    keys = ("wall_min", "wall_median", "cpu_min", "times_ours", "queries_answered_differently")
    lines = [" " * 18 + "".join(f"{head:>12}" for head in heads)]
    for name, summary in results.items():
        lines.append(f"{name:18}" + "".join(f"{summary[key]:>12.2f}" for key in keys))
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knn", description=__doc__)
    parser.add_argument("--train", type=int, default=100_000, help="vectors in the bank")
    parser.add_argument("--test", type=int, default=10_000, help="query vectors")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--k", type=int, default=200, help="neighbors")
    parser.add_argument("--rounds", type=int, default=1, help="timed rounds, after one warm-up round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("knn.json"), help="file for the results")
    args = parser.parse_args()
    with threadpool_limits(args.threads):
        results = compare(args)
    print(table(results))
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "faiss": faiss.__version__,
        "scikit-learn": version("scikit-learn"),
    }
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": results}, indent=1) + "\n"
    )
    print(args.out)


if __name__ == "__main__":
    main()
