"""Neighbors are exact, their order is settled, and their vote is a weighted mean."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.second_device import SECOND, second_device
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.measure import neighbors as module
from vetdino.platform.measure.neighbors import UnitRows, nearest, unit_vectors, vote


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


def clustered(count, seed, width=24, dtype=np.float32):
    """Few directions and many twins, so that there are ties at every k."""
    centers = vectors(9, 5, width)
    chosen = centers[np.random.default_rng(seed).integers(0, 9, count)]
    return (chosen + (vectors(count, seed, width) > 1)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_blocks_of_a_mapped_bank_give_the_bits_of_the_whole(tmp_path, monkeypatch, dtype, k):
    bank, queries = clustered(700, 0, dtype=dtype), clustered(60, 1, dtype=dtype)
    expected = nearest(bank, queries, k)
    np.save(tmp_path / "bank.npy", bank)
    monkeypatch.setattr(module, "BLOCK", 53 * 24)
    monkeypatch.setattr(module, "QUERIES", 17)
    monkeypatch.setattr(module, "TIED", 5)
    for one, other in zip(
        nearest(np.load(tmp_path / "bank.npy", mmap_mode="r"), queries, k), expected, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(expected[1], slowly_scored(bank, queries, k))


def slowly_scored(bank, queries, k):
    """Brute force with the scores of `nearest`: by falling score, then rising row."""
    bank, queries = unit_vectors(bank), unit_vectors(queries)
    scores = np.einsum("mkd,md->mk", np.broadcast_to(bank, (len(queries), *bank.shape)), queries)
    return np.lexsort((np.broadcast_to(np.arange(len(bank)), scores.shape), -scores), axis=1)[:, :k]


@pytest.mark.parametrize("k", [1, 7, 150])
def test_a_device_finds_the_same_neighbors(monkeypatch, k):
    bank, queries = clustered(700, 0), clustered(60, 1)
    expected = nearest(bank, queries, k, "cpu")
    monkeypatch.setattr(module, "ON_GPU", 0)
    monkeypatch.setattr(module, "BLOCK", 53 * 24)
    monkeypatch.setattr(module, "ON_DEVICE", 53 * 11)
    used = []
    with second_device() as device:
        monkeypatch.setattr(module, "resolve_device", lambda choice: used.append(choice) or device)
        found = nearest(bank, queries, k)
    assert used == ["auto"]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_device_is_used_for_large_searches_alone(monkeypatch):
    monkeypatch.setattr(module, "search_on_device", lambda *_, device: pytest.fail("too small, or the CPU"))
    monkeypatch.setattr(module, "resolve_device", lambda choice: SECOND)
    nearest(vectors(20, 0), vectors(4, 1), 5)
    monkeypatch.setattr(module, "ON_GPU", 0)
    nearest(vectors(20, 0), vectors(4, 1), 5, "cpu")
    with pytest.raises(pytest.fail.Exception):
        nearest(vectors(20, 0), vectors(4, 1), 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_neighbors(monkeypatch):
    bank, queries = clustered(5_000, 0), clustered(300, 1)
    monkeypatch.setattr(module, "ON_GPU", 0)
    for one, other in zip(nearest(bank, queries, 20, "cuda"), nearest(bank, queries, 20, "cpu"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(module, "ON_GPU", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device cuda needs a GPU"):
        nearest(vectors(20, 0), vectors(4, 1), 5, "cuda")


def test_bad_vectors_of_a_bank_in_blocks_are_counted(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 30)
    bank = vectors(50, 0)
    bank[[3, 40]] = np.nan
    with pytest.raises(FeaturesError, match="2 of 50 vectors of the bank"):
        nearest(bank, vectors(2, 1), 1)
    assert repr(UnitRows(vectors(50, 0), "bank")) == "UnitRows(50, 12 dimensions)"


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
