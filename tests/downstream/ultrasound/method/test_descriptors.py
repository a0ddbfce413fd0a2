"""Log-binned descriptors are those of slow loops; best buddies choose each other."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.ultrasound.method.descriptors import best_buddies, log_binned
from vetdino.platform.core.errors import ConfigError, DataError


def slow(descriptors, hierarchy):
    """Amir et al.'s definition as loops over patches, bins and windows."""
    rows, columns, _ = descriptors.shape

    def mean(row, column, reach):
        inside = [
            descriptors[r, c].astype(np.float64)
            for r in range(row - reach, row + reach + 1)
            for c in range(column - reach, column + reach + 1)
            if 0 <= r < rows and 0 <= c < columns
        ]
        return sum(inside) / len(inside)

    binned = []
    for row, column in itertools.product(range(rows), range(columns)):
        bins = [descriptors[row, column]]
        for level in range(hierarchy):
            step = 3**level
            for down in (-step, 0, step):
                for right in (-step, 0, step):
                    if (down, right) != (0, 0):
                        r = max(0, min(row + down, rows - 1))
                        c = max(0, min(column + right, columns - 1))
                        bins.append(mean(r, c, step // 2))
        binned.append(np.concatenate(bins))
    return np.array(binned).reshape(rows, columns, -1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_bins_are_those_of_slow_loops(rows, columns, width, hierarchy, seed):
    descriptors = np.random.default_rng(seed).normal(size=(rows, columns, width)).astype(np.float32)
    binned = log_binned(descriptors, hierarchy)
    assert binned.shape == (rows, columns, (1 + 8 * hierarchy) * width)
    assert binned.dtype == np.float32
    np.testing.assert_allclose(binned, slow(descriptors, hierarchy), rtol=1e-5, atol=1e-6)


def test_there_are_17_bins_by_default_and_the_first_is_the_patch_itself():
    descriptors = np.arange(7 * 8 * 2, dtype=np.float32).reshape(7, 8, 2)
    binned = log_binned(descriptors).reshape(7, 8, 17, 2)
    np.testing.assert_array_equal(binned[:, :, 0], descriptors)
    np.testing.assert_array_equal(binned[3, 4, 1], descriptors[2, 3])  # at 1, upper left
    np.testing.assert_allclose(binned[3, 4, 16], descriptors[5:7, 6:8].mean(axis=(0, 1)))  # at 3, lower right


def test_a_picture_of_784_patches_is_binned_in_no_time():
    descriptors = np.random.default_rng(0).normal(size=(28, 28, 384)).astype(np.float32)
    began = time.process_time()
    log_binned(descriptors)
    assert time.process_time() - began < 2  # about 0.05


def test_descriptors_that_cannot_be_binned_are_refused():
    with pytest.raises(DataError, match=r"shape \(4, 5\) must be"):
        log_binned(np.ones((4, 5)))
    with pytest.raises(DataError, match="NaN or infinite"):
        log_binned(np.full((2, 2, 2), np.nan))
    with pytest.raises(ConfigError, match="hierarchy is 0"):
        log_binned(np.ones((2, 2, 2)), 0)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_best_buddies_are_those_of_slow_loops(n, m, seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(n, 4)).astype(np.float32), random.normal(size=(m, 4)).astype(np.float32)
    salient_a, salient_b = random.random(n) < 0.7, random.random(m) < 0.7
    cosine = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    expected = [
        (i, j)
        for i in range(n)
        for j in range(m)
        if j == max(range(m), key=lambda other: cosine[i, other])
        and i == max(range(n), key=lambda other: cosine[other, j])
        and salient_a[i]
        and salient_b[j]
    ]
    pairs = best_buddies(a, b, salient_a, salient_b)
    assert pairs.shape == (len(expected), 2)
    assert [tuple(pair) for pair in pairs] == expected


def test_a_shuffled_copy_is_paired_patch_by_patch():
    random = np.random.default_rng(0)
    a, order = random.normal(size=(50, 16)), random.permutation(50)
    everyone = np.ones(50, bool)
    np.testing.assert_array_equal(best_buddies(a, 3 * a[order], everyone, everyone)[:, 1], np.argsort(order))


def test_a_buddy_that_is_not_salient_is_dropped_and_nobody_takes_its_place():
    a = np.eye(3)
    salient = np.array([True, True, False])
    np.testing.assert_array_equal(best_buddies(a, a, np.ones(3, bool), salient), [[0, 0], [1, 1]])
    assert best_buddies(a, a, np.zeros(3, bool), salient).shape == (0, 2)


def test_patches_that_cannot_be_compared_are_refused():
    yes = np.ones(3, bool)
    with pytest.raises(DataError, match=r"3 patches of b, saliency of shape \(2,\)"):
        best_buddies(np.eye(3), np.eye(3), yes, yes[:2])
    with pytest.raises(DataError, match="dimensions"):
        best_buddies(np.eye(3), np.ones((3, 4)), yes, yes)
    with pytest.raises(DataError, match="NaN, infinite or zero"):
        best_buddies(np.eye(3), np.zeros((3, 3)), yes, yes)
