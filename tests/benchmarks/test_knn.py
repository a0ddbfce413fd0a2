"""The neighbors that are timed are the same neighbors; nothing here is timed."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks.knn.__main__ import compare, contestants, disagreements, table, vectors
from benchmarks.knn.table import steps, write_table
from vetdino.platform.measure.features import load_features


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


def test_a_long_table_goes_through_every_step(tmp_path):
    folder = tmp_path / "features"
    write_table(folder, rows=900, queries=60, dimensions=16)
    assert len(load_features(folder)) == 990
    facts = {name: step() for name, step in steps(folder, k=10).items()}
    assert facts["open"]["table"] == "Features(990 rows by study, 16 dimensions)"
    assert facts["linear"]["auroc"] > 0.7
    assert "recall@10" in facts["gallery"]["gallery"]
    ours, flat = (np.load(tmp_path / f"{name}.npz") for name in ("ours", "flat"))
    assert disagreements((ours["arr_0"], ours["arr_1"]), (flat["arr_0"], flat["arr_1"])) == 0
