"""The neighbours that are timed are the same neighbours; nothing here is timed."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks.knn.__main__ import compare, contestants, disagreements, table, vectors


def test_all_contestants_find_the_same_neighbours():
    asked = argparse.Namespace(train=900, test=40, dimensions=24, k=20, rounds=1)
    found = compare(asked)
    assert set(found) == {"vetdino", "sklearn cosine", "sklearn euclidean"}
    assert {told["queries_answered_differently"] for told in found.values()} == {0}
    assert table(found).count("\n") == 3


@pytest.mark.parametrize("change", ["cosine", "neighbour"])
def test_a_wrong_neighbour_is_counted(change):
    runners = contestants(vectors(300, 16, seed=1), vectors(10, 16, seed=2), k=5)
    right = runners["vetdino"]()
    cosine_MK, row_MK = (part.copy() for part in right)
    if change == "cosine":
        cosine_MK[3, 1] += 1e-3
    else:
        row_MK[3, 1] = np.setdiff1d(np.arange(300), row_MK[3])[0]
    assert disagreements(right, right) == 0
    assert disagreements(right, (cosine_MK, row_MK)) == 1
