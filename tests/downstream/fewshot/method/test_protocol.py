"""Folds, thirds, Dice and surfaces, against loops and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.method.protocol import (
    bootstrap_intervals,
    cross_validation_folds,
    dice,
    hd95,
    parts_from_supports,
    parts_from_truth,
    slice_part,
    support_slices,
)
from vetdino.platform.core.errors import ConfigError, DataError


def column(*labelled: int, slices: int = 12) -> np.ndarray:
    """A mask of one pixel a slice, set in the slices named."""
    mask = np.zeros((slices, 1, 1), bool)
    mask[list(labelled)] = True
    return mask


@pytest.mark.parametrize(("count", "size"), [(20, 4), (30, 6)])
def test_folds_are_the_published_ones(count, size):
    ids = [str(number) for number in range(count)]
    for number, fold in enumerate(cross_validation_folds(ids)):
        circle = (ids + ids)[number * size : (number + 1) * size + 1]
        assert [*fold.queries, *fold.supports] == circle


@given(count=st.integers(3, 40), folds=st.integers(2, 6), shots=st.integers(1, 5))
def test_every_scan_is_asked_once_and_never_teaches_itself(count, folds, shots):
    ids = [str(number) for number in range(count)]
    try:
        made = cross_validation_folds(ids, folds, shots)
    except ConfigError:
        assert folds > count or shots > count - -(-count // folds)
        return
    assert [name for fold in made for name in fold.queries] == ids
    for fold in made:
        assert len(set(fold.supports)) == shots
        assert not set(fold.supports) & set(fold.queries)


@given(count=st.integers(1, 60), start=st.integers(0, 20))
def test_support_slices_are_those_at_a_sixth_a_half_and_five_sixths(count, start):
    mask = column(*range(start, start + count), slices=100)
    expected = [start + int(share * count + 1e-9) for share in (1 / 6, 1 / 2, 5 / 6)]
    assert list(support_slices(mask)) == expected


@given(first=st.integers(0, 50), length=st.integers(1, 60), z=st.integers(0, 120))
def test_a_slices_part_is_the_published_formula(first, length, z):
    last = first + length
    assert slice_part(z, first, last) == min(max(int((z - first) / (length / 3) + 1e-9), 0), 2)


def test_only_slices_from_the_organs_first_to_its_last_are_scored():
    assert parts_from_truth(column(3, 5, 9)) == {3: 0, 4: 0, 5: 1, 6: 1, 7: 2, 8: 2, 9: 2}
    assert parts_from_truth(column(4)) == {4: 1}
    assert parts_from_truth(column()) == {}


def test_without_truth_the_organ_lies_where_the_supports_have_it():
    half = column(6, 7, 8, 9, 10, 11)
    assert parts_from_supports(6, [half], reach=0.0) == {3: 0, 4: 1, 5: 2}
    assert parts_from_supports(24, [half], reach=0.0) == {z: (z - 12) // 4 for z in range(12, 24)}
    assert set(parts_from_supports(12, [half], reach=0.5)) == set(range(3, 12))
    assert set(parts_from_supports(12, [half], reach=9.0)) == set(range(12))
    assert parts_from_supports(1, [column(0, slices=1)], reach=0.0) == {0: 1}


def test_dice_counts_pooled_voxels():
    random = np.random.default_rng(0)
    predicted, truth = random.random((2, 3, 9, 9)) > 0.5
    true = sum(bool(a and b) for a, b in zip(predicted.flat, truth.flat, strict=True))
    wrong = sum(bool(a != b) for a, b in zip(predicted.flat, truth.flat, strict=True))
    assert dice(predicted, truth) == pytest.approx(2 * true / (2 * true + wrong))
    assert dice(predicted, np.zeros_like(predicted)) == 0
    assert np.isnan(dice(np.zeros(3, bool), np.zeros(3, bool)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(4, 6, 5), (1, 7, 7), (5, 3, 9)]))
def test_hd95_is_that_of_a_loop_over_all_surface_voxels(seed, shape):
    random = np.random.default_rng(seed)
    predicted, truth = random.random((2, *shape)) > 0.6
    predicted.flat[0] = truth.flat[-1] = True
    spacing = (7.7, 1.25, 1.5)

    def surface(mask):
        padded = np.pad(mask, 1)
        points = []
        for z, y, x in np.argwhere(mask):
            steps = ((2, 1, 1), (0, 1, 1), (1, 2, 1), (1, 0, 1), (1, 1, 2), (1, 1, 0))
            if not all(padded[z + i, y + j, x + k] for i, j, k in steps):
                points.append((z, y, x))
        return np.array(points) * spacing

    one, other = surface(predicted), surface(truth)
    apart = np.linalg.norm(one[:, None] - other[None], axis=2)
    expected = max(np.percentile(apart.min(axis=1), 95), np.percentile(apart.min(axis=0), 95))
    assert hd95(predicted, truth, np.diag(spacing)) == pytest.approx(expected)


def test_hd95_of_a_mask_that_is_moved_is_how_far():
    mask = np.zeros((10, 20, 20), bool)
    mask[3:6, 5:9, 5:9] = True
    assert hd95(mask, np.roll(mask, 2, axis=0), np.diag((5.0, 1.0, 1.0))) == 10
    assert hd95(mask, mask, np.diag((5.0, 1.0, 1.0))) == 0
    assert np.isnan(hd95(mask, np.zeros_like(mask), np.diag((5.0, 1.0, 1.0))))


def test_intervals_are_of_organs_and_of_their_mean_and_hold_the_value():
    values = np.random.default_rng(0).uniform(0.4, 0.9, (12, 3))
    values[2, 1] = np.nan
    means, (low, high) = bootstrap_intervals(values, 500, seed=0)
    np.testing.assert_allclose(means[:3], np.nanmean(values, axis=0))
    assert means[3] == pytest.approx(means[:3].mean())
    assert (low < means).all()
    assert (means < high).all()
    assert (high - low)[3] < (high - low)[:3].max()
    again = bootstrap_intervals(values, 500, seed=0)[1]
    np.testing.assert_array_equal(again, (low, high))


def test_few_scans_have_no_interval_and_nothing_known_no_mean():
    means, (low, _) = bootstrap_intervals(np.array([[0.5, np.nan], [0.7, np.nan]]), 50, seed=0)
    np.testing.assert_allclose(means, [0.6, np.nan, 0.6])
    assert np.isnan(low).all()
    means, _ = bootstrap_intervals(np.full((6, 2), np.nan), 50, seed=0)
    assert np.isnan(means).all()


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="5 folds of 3"):
        cross_validation_folds("abc", 5)
    with pytest.raises(ConfigError, match="3 shots"):
        cross_validation_folds("abcd", 2, 3)
    with pytest.raises(DataError, match="empty"):
        support_slices(column())
    with pytest.raises(DataError, match="empty"):
        parts_from_supports(5, [column()], 0.1)
