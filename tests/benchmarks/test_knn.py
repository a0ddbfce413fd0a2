"""The neighbors that are timed are the same neighbors; nothing here is timed."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks.knn.__main__ import compare, contestants, disagreements, table, vectors


def test_all_contestants_find_the_same_neighbors():
    args = argparse.Namespace(train=900, test=40, dimensions=24, k=20, rounds=1)
    results = compare(args)
    assert set(results) == {"vetdino", "sklearn cosine", "sklearn euclidean"}
    assert {each["queries_answered_differently"] for each in results.values()} == {0}
    assert table(results).count("\n") == 3


@pytest.mark.parametrize("change", ["cosine", "neighbor"])
def test_a_wrong_neighbor_is_counted(change):
    runners = contestants(vectors(300, 16, seed=1), vectors(10, 16, seed=2), k=5)
    right = runners["vetdino"]()
    cosine_MK, row_MK = (part.copy() for part in right)
    if change == "cosine":
        cosine_MK[3, 1] += 1e-3
    else:
        row_MK[3, 1] = np.setdiff1d(np.arange(300), row_MK[3])[0]
    assert disagreements(right, right) == 0
    assert disagreements(right, (cosine_MK, row_MK)) == 1
