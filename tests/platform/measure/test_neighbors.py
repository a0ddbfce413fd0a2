"""Neighbors are exact, their order is settled, and their vote is a weighted mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.neighbors import nearest, vote


def slowly(bank_ND, queries_MD, k):
    """The same by a loop: by falling cosine, then rising index."""
    bank = bank_ND / np.linalg.norm(bank_ND, axis=1, keepdims=True)
    found = []
    for query in queries_MD:
        cosines = [float(np.dot(row, query / np.linalg.norm(query))) for row in bank]
        found.append(sorted(range(len(bank)), key=lambda row: (-cosines[row], row))[:k])
    return np.array(found)


def vectors(count, seed, width=12):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 50))
def test_the_nearest_are_those_of_a_slow_loop(bank, queries, k):
    scores_MK, rows_MK = nearest(vectors(bank, 0), vectors(queries, 1), k)
    assert rows_MK.shape == (queries, min(k, bank))
    np.testing.assert_array_equal(rows_MK, slowly(vectors(bank, 0), vectors(queries, 1), k))
    assert (np.diff(scores_MK, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 2, 5, 9, 300])
def test_equal_scores_come_in_the_order_of_their_index(k):
    few = vectors(7, 0, width=51)
    bank = np.concatenate([few[np.random.default_rng(row).permutation(7)] for row in range(40)])
    scores_MK, rows_MK = nearest(bank, vectors(33, 1, width=51), k)
    for scores, rows in zip(scores_MK, rows_MK, strict=True):
        for score in np.unique(scores):
            of_one = rows[scores == score]
            assert (np.diff(of_one) > 0).all()
            twins = np.flatnonzero((bank == bank[of_one[0]]).all(axis=1))
            np.testing.assert_array_equal(of_one, twins[: len(of_one)])


def test_a_collapsed_bank_still_answers_in_order():
    _, rows_MK = nearest(np.ones((50, 8)), np.ones((3, 8)), 4)
    np.testing.assert_array_equal(rows_MK, [[0, 1, 2, 3]] * 3)


def test_length_does_not_matter():
    bank, queries = vectors(20, 0), vectors(4, 1)
    np.testing.assert_array_equal(nearest(bank * 9, queries, 5)[1], nearest(bank, queries * 0.1, 5)[1])


@pytest.mark.parametrize(
    ("bank", "queries", "k", "message"),
    [
        (np.full((2, 3), np.nan), np.ones((1, 3)), 1, "2 of 2 vectors of the bank"),
        (np.ones((2, 3)), np.array([[1, np.inf, 0]]), 1, "1 of 1 vectors of the queries"),
        (np.zeros((2, 3)), np.ones((1, 3)), 1, "have no direction"),
        (np.empty((0, 3)), np.ones((1, 3)), 1, "is empty"),
        (np.ones((2, 3)), np.ones((1, 4)), 1, "3 dimensions, the queries have 4"),
        (np.ones((2, 3)), np.ones((1, 3)), 0, "at least one"),
        (np.ones(3), np.ones((1, 3)), 1, r"shape \(3,\)"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(bank, queries, k, message):
    with pytest.raises(FeaturesError, match=message):
        nearest(bank, queries, k)


def test_the_vote_is_the_weighted_mean_of_a_slow_loop():
    random = np.random.default_rng(0)
    scores_MK, labels_MKF = random.random((6, 5)), (random.random((6, 5, 3)) < 0.5).astype(float)
    labels_MKF[random.random(labels_MKF.shape) < 0.3] = np.nan
    labels_MKF[:, 0] = 1
    voted_MF = vote(scores_MK, labels_MKF, 0.07)
    for m in range(6):
        for f in range(3):
            said = [
                (np.exp(s / 0.07), y)
                for s, y in zip(scores_MK[m], labels_MKF[m, :, f], strict=True)
                if not np.isnan(y)
            ]
            assert voted_MF[m, f] == pytest.approx(sum(w * y for w, y in said) / sum(w for w, _ in said))


def test_where_nobody_knows_the_vote_is_how_common_the_finding_is():
    labels_MKF = np.array([[[np.nan], [np.nan]], [[1.0], [0.0]]])
    same_MK = np.zeros((2, 2))
    np.testing.assert_allclose(vote(same_MK, labels_MKF), [[0.5], [0.5]])
    np.testing.assert_allclose(vote(same_MK, labels_MKF, default_F=np.array([0.1])), [[0.1], [0.5]])
    assert np.isnan(vote(same_MK, np.full((2, 2, 1), np.nan))).all()
