"""`python -m benchmarks.knn`: both contestants in turns in one process, as a table and as JSON."""

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

Found = tuple[np.ndarray, np.ndarray]
"""Cosines (M, K), the largest first, and the rows (M, K) of the bank that they are of."""


def vectors(count: int, dimensions: int, seed: int, clusters: int = 200) -> np.ndarray:
    """Unit vectors around common centres, as those of a backbone are bunched: (N, D) float32."""
    centres = np.random.default_rng(0).normal(size=(clusters, dimensions))
    random = np.random.default_rng(seed)
    found = centres[random.integers(0, clusters, count)] + random.normal(size=(count, dimensions))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def contestants(bank_ND: np.ndarray, queries_MD: np.ndarray, k: int) -> dict[str, Callable[[], Found]]:
    """scikit-learn is asked in both its ways: by cosine, and by the distance of unit vectors, which is faster
    and gives the same order."""
    from sklearn.neighbors import NearestNeighbors

    def theirs(metric: str, cosine_of: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Found]:
        def run() -> Found:
            index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(bank_ND)
            distance_MK, row_MK = index.kneighbors(queries_MD)
            return cosine_of(distance_MK), row_MK

        return run

    return {
        "vetdino": lambda: nearest(bank_ND, queries_MD, k),
        "sklearn cosine": theirs("cosine", lambda distance: 1 - distance),
        "sklearn euclidean": theirs("euclidean", lambda distance: 1 - distance**2 / 2),
    }


def disagreements(one: Found, other: Found) -> int:
    """Queries whose neighbours differ by more than rounding: in a cosine, or in who is among them where the
    last place is not a tie."""
    cosine_MK, other_MK = one[0], other[0]
    apart_M = np.abs(cosine_MK - other_MK).max(axis=1) > 10 * GRAIN
    safe_MK = cosine_MK > cosine_MK[:, -1:] + 10 * GRAIN
    for m in range(len(cosine_MK)):
        apart_M[m] |= not set(one[1][m][safe_MK[m]]) <= set(other[1][m])
    return int(apart_M.sum())


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each, and how many queries they answer differently."""
    bank_ND = vectors(asked.train, asked.dimensions, seed=1)
    queries_MD = vectors(asked.test, asked.dimensions, seed=2)
    runners = contestants(bank_ND, queries_MD, asked.k)
    answers: dict[str, Found] = {}

    def kept(name: str) -> Callable[[], None]:
        return lambda: answers.update({name: runners[name]()})

    clocks = in_turns({name: kept(name) for name in runners}, asked.rounds, torch.device("cpu"))
    ours = clocks["vetdino"].told
    return {
        name: {
            **clocks[name].told,
            "times_ours": clocks[name].told["cpu_min"] / ours["cpu_min"],
            "queries_answered_differently": disagreements(answers["vetdino"], answers[name]),
        }
        for name in runners
    }


def table(found: dict[str, Any]) -> str:
    """The results as lines of text."""
    heads = ("min s", "median s", "cpu s", "times ours", "differ")
    keys = ("wall_min", "wall_median", "cpu_min", "times_ours", "queries_answered_differently")
    lines = [" " * 18 + "".join(f"{head:>12}" for head in heads)]
    for name, told in found.items():
        lines.append(f"{name:18}" + "".join(f"{told[key]:>12.2f}" for key in keys))
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knn", description=__doc__)
    parser.add_argument("--train", type=int, default=100_000, help="vectors in the bank")
    parser.add_argument("--test", type=int, default=10_000, help="vectors that ask")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--k", type=int, default=200, help="neighbours")
    parser.add_argument("--rounds", type=int, default=1, help="rounds that count; one more warms up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("knn.json"), help="file for the results")
    asked = parser.parse_args()
    with threadpool_limits(asked.threads):
        found = compare(asked)
    print(table(found))
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "faiss": faiss.__version__,
        "scikit-learn": version("scikit-learn"),
    }
    settings = {name: str(value) for name, value in vars(asked).items()}
    asked.out.write_text(
        json.dumps({"machine": machine, "settings": settings, "found": found}, indent=1) + "\n"
    )
    print(asked.out)


if __name__ == "__main__":
    main()
