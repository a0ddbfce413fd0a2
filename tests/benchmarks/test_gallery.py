"""The galleries that are timed hold the vectors that the recall is counted on; nothing here is timed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gallery.__main__ import measured, parse_args, table
from benchmarks.gallery.rows import ClusteredSource, clustered, exact_bounds, recall


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "qdrant"])
def test_a_gallery_is_measured(kind, tmp_path):
    if kind == "qdrant":
        pytest.importorskip("qdrant_edge", reason="benchmarks/requirements.txt is not installed")
    args = parse_args(["--vectors", "600", "--dimensions", "16", "--queries", "20"])
    result = measured(args, kind, tmp_path / "gallery")
    assert result["recall"] > 0.9
    assert set(result["search"]) == {"plain", "another patient", "a finding"}
    assert table({kind: result}).count("\n") == 1


def test_the_recall_is_counted_on_the_vectors_themselves(monkeypatch):
    monkeypatch.setattr("benchmarks.gallery.rows.PART", 70)
    source = ClusteredSource(200, 16)
    rows, queries = np.concatenate(list(source.vectors())), clustered(5, 16, seed=10**6)
    assert [len(part) for part in source.batches()] == [70, 70, 60]
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in source.batches()]), rows)
    order = np.argsort(-(queries @ rows.T), axis=1)
    bounds = exact_bounds(source, queries)
    assert recall(source, queries, bounds, order[:, :10]) == 1.0
    assert recall(source, queries, bounds, order[:, 5:15]) == 0.5
