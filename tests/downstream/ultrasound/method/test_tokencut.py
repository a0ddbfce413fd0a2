"""TokenCut cuts out the object of its seed, as the dense eigenproblem of the paper does."""

import time

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.ndimage import label

from vetdino.downstream.ultrasound.method.tokencut import second_eigenvector, tokencut
from vetdino.platform.core.errors import ConfigError, DataError


def blobs(rows=12, columns=14, width=16, noise=0.15, seed=0):
    """Keys of one kind, but for a larger and a smaller patch of ground of another kind."""
    random = np.random.default_rng(seed)
    larger, smaller = np.zeros((2, rows, columns), bool)
    larger[2:7, 3:8] = True
    smaller[9:11, 11:13] = True
    thing, rest = np.eye(width)[:2]
    keys = np.where((larger | smaller)[:, :, None], thing, rest)
    return keys + noise * random.normal(size=keys.shape), larger, smaller


def by_the_paper(keys, tau=0.2, eps=1e-5):
    """The generalised eigenproblem solved whole, and the rest step by step."""
    rows, columns, width = keys.shape
    unit = keys.reshape(-1, width) / np.linalg.norm(keys.reshape(-1, width), axis=1, keepdims=True)
    weight = np.where(unit @ unit.T > tau, 1.0, eps)
    degree = np.diag(weight.sum(axis=1))
    _, vectors = eigh(degree - weight, degree)
    second = vectors[:, 1]
    seed = np.argmax(np.abs(second))
    above = second > second.mean()
    foreground = above if above[seed] else ~above
    parts, _ = label(foreground.reshape(rows, columns))
    return parts == parts.ravel()[seed]


def test_the_object_is_the_connected_part_that_holds_the_seed():
    keys, larger, smaller = blobs()
    mask = tokencut(keys).mask
    assert mask.dtype == bool
    assert mask.shape == larger.shape
    # Both are of the other kind; which holds the largest entry is up to the noise, but it is one of them whole.
    assert np.array_equal(mask, larger) or np.array_equal(mask, smaller)


def test_a_single_object_is_cut_out_whole():
    keys, larger, smaller = blobs()
    keys[smaller] = keys[0, 0]
    np.testing.assert_array_equal(tokencut(keys).mask, larger)


@pytest.mark.parametrize("seed", range(8))
def test_the_mask_is_that_of_the_dense_generalised_problem(seed):
    random = np.random.default_rng(seed)
    rows, columns = 9 + seed, 15 - seed
    place = np.stack(np.mgrid[:rows, :columns], axis=-1) / 5
    keys = np.cos(place @ random.normal(size=(2, 24)) + random.uniform(0, 6, 24)) + 0.4 * random.normal(
        size=(rows, columns, 24)
    )
    np.testing.assert_array_equal(tokencut(keys).mask, by_the_paper(keys))


def test_the_second_eigenvector_is_that_of_scipys_dense_solver_but_for_its_sign():
    random = np.random.default_rng(0)
    weight = np.where(random.random((60, 60)) < 0.2, 1.0, 1e-5)
    weight = np.maximum(weight, weight.T)
    degree = np.diag(weight.sum(axis=1))
    _, vectors = eigh(degree - weight, degree)
    ours, theirs = second_eigenvector(weight), vectors[:, 1]
    cosine = ours @ degree @ theirs / np.sqrt((ours @ degree @ ours) * (theirs @ degree @ theirs))
    assert abs(cosine) == pytest.approx(1, abs=1e-9)


def test_the_same_keys_give_the_same_mask_whatever_was_drawn_before_and_however_long_they_are():
    keys, _, _ = blobs(noise=0.6)
    first = tokencut(keys).mask
    np.random.seed(1)
    np.testing.assert_array_equal(tokencut(keys).mask, first)
    np.testing.assert_array_equal(tokencut(keys * 4).mask, first)


@pytest.mark.parametrize(
    ("keys", "cosines"),
    [
        (np.ones((4, 5, 3)), (1, 1, 1)),
        (np.eye(20).reshape(4, 5, 20), (0, 0, 0)),
        (np.ones((1, 1, 3)), (1, 1, 1)),
        (np.eye(2).reshape(1, 2, 2), (0, 0, 0)),
        (np.array([[[1.0, 0], [1, 1], [1, 1]]]), (0.5**0.5, 0.5**0.5, 1)),
    ],
)
def test_where_there_is_nothing_to_cut_the_mask_is_empty_and_the_cosines_are_given(keys, cosines):
    cut = tokencut(keys)
    assert cut.mask.shape == keys.shape[:2]
    assert not cut.mask.any()
    assert cut.uncut == pytest.approx(cosines)


def test_keys_that_are_all_alike_to_the_papers_tau_are_cut_at_a_larger_one():
    keys, _, _ = blobs()
    close = keys / np.linalg.norm(keys, axis=-1, keepdims=True) + 3 * np.eye(keys.shape[-1])[0]
    nothing = tokencut(close)
    low, median, _ = nothing.uncut
    assert low > 0.2
    assert tokencut(close, tau=median).uncut is None
    assert tokencut(close, tau=median).mask.any()


def test_three_patches_are_enough():
    keys = np.array([[[1.0, 0], [1, 0.1], [0, 1]]])
    np.testing.assert_array_equal(tokencut(keys).mask, [[False, False, True]])


def test_a_grid_of_stride_4_takes_seconds():
    keys, larger, smaller = blobs(56, 56, 32)
    began = time.process_time()
    mask = tokencut(keys).mask
    assert time.process_time() - began < 5  # about 0.5
    assert np.array_equal(mask, larger) or np.array_equal(mask, smaller)


def test_keys_and_settings_that_cannot_be_cut_are_refused():
    with pytest.raises(DataError, match=r"keys of shape \(4, 5\)"):
        tokencut(np.ones((4, 5)))
    keys = np.ones((2, 2, 3))
    keys[0, 1] = np.nan
    with pytest.raises(DataError, match="1 of 4 vectors of the image are NaN"):
        tokencut(keys)
    with pytest.raises(DataError, match="4 of 4 vectors of the image are NaN, infinite or zero"):
        tokencut(np.zeros((2, 2, 3)))
    with pytest.raises(ConfigError, match=r"eps 0"):
        tokencut(np.ones((2, 2, 3)), eps=0)
    with pytest.raises(ConfigError, match="tau 2"):
        tokencut(np.ones((2, 2, 3)), tau=2)
