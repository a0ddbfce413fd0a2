"""Exact cosines with float16 rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gallery.tables import slow_search, table
from vetdino.serving.gallery import vectors as module
from vetdino.serving.gallery.vectors import exact_cosines, exact_search, near_best, unit_rows


def test_the_cosine_of_a_row_with_itself_is_one():
    stored = table(50, 7).vectors.astype(np.float16)
    for row in stored:
        assert exact_cosines(row[None], unit_rows(row[None])[0])[0] == 1.0


def test_a_row_scores_the_same_wherever_it_is():
    stored = table(40, 384).vectors.astype(np.float16)
    query = table(1, 384, seed=1).vectors[0]
    together = exact_cosines(stored, query)
    assert [exact_cosines(row[None], query)[0] for row in stored] == together.tolist()
    assert exact_cosines(stored[3:17], query).tolist() == together[3:17].tolist()


def test_float16_moves_a_cosine_by_less_than_a_ten_thousandth():
    rows = table(500, 384).vectors
    query = table(1, 384, seed=1).vectors[0]
    assert np.abs(exact_cosines(rows.astype(np.float16), query) - rows @ query).max() < 1e-4


@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.2000001, 0.3]), min_size=1, max_size=9),
    count=st.integers(1, 9),
)
def test_no_row_that_could_be_among_the_best_is_dropped(scores, count):
    rough = np.array(scores, np.float32)
    kept = set(near_best(rough, count).tolist())
    best = sorted(range(len(scores)), key=lambda row: -rough[row])[:count]
    assert set(best) <= kept
    assert all(row in kept for row in range(len(scores)) if rough[row] >= rough[best[-1]] - 1e-6)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 30), k=st.integers(1, 12), kinds=st.integers(0, 3), seed=st.integers(0, 99))
def test_an_exact_search_in_blocks_is_the_slow_one(count, k, kinds, seed):
    features, queries = table(count, 5, seed, kinds=kinds), table(3, 5, seed + 1).vectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 4)
        ids, scores = exact_search(features.vectors.astype(np.float16), queries, k)
    for query, id, score in zip(queries, ids, scores, strict=True):
        keys = [features.keys[row] for row in id]
        assert list(zip(keys, score.tolist(), strict=True)) == slow_search(features, query, k)
