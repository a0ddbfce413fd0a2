"""Augmentations of a slice and a mask, one kind of change at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.learn.augmentation import augmented_pair
from vetdino.downstream.fewshot.learn.config import EpisodeConfig
from vetdino.platform.core.errors import DataError

STILL = {
    "rotation": 0.0,
    "shift": 0.0,
    "shear": 0.0,
    "zoom": (1.0, 1.0),
    "elastic_alpha": 0.0,
    "gamma": (1.0, 1.0),
}


def blob(y: float = 30, x: float = 34, radius: float = 9, side: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) < radius


def center(mask_HW: np.ndarray) -> np.ndarray:
    return np.argwhere(mask_HW).mean(axis=0)


def test_the_two_augmentations_are_independent_and_depend_on_the_seed():
    mask_HW = blob()
    image_HW = mask_HW * 100.0
    first = augmented_pair(image_HW, mask_HW, None, np.random.default_rng(1))
    again = augmented_pair(image_HW, mask_HW, None, np.random.default_rng(1))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert not np.array_equal(first[0].mask, first[1].mask)
    assert not np.array_equal(first[0].image, first[1].image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_image_and_mask_move_together(seed):
    mask_HW = blob()
    for augmented in augmented_pair(mask_HW * 100.0, mask_HW, None, np.random.default_rng(seed)):
        assert augmented.image.dtype == np.float32
        assert augmented.mask.dtype == bool
        bright = augmented.image > 50.0 ** (1 if augmented.image.max() <= 100 else 2)
        both, either = (bright & augmented.mask).sum(), (bright | augmented.mask).sum()
        # The gamma shifts where a blurred edge crosses one half.
        assert both / either > 0.8


def test_zero_ranges_change_nothing():
    image_HW = np.random.default_rng(0).normal(0, 1, (64, 48)).astype(np.float32)
    mask_HW = np.zeros((64, 48), bool)
    mask_HW[10:20, 5:9] = True
    for augmented in augmented_pair(image_HW, mask_HW, EpisodeConfig(**STILL), np.random.default_rng(0)):
        np.testing.assert_allclose(augmented.image, image_HW, atol=1e-5)
        np.testing.assert_array_equal(augmented.mask, mask_HW)


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_moves_by_at_most_so_many_pixels_and_does_move(seed):
    config = EpisodeConfig(**STILL | {"shift": 5.0})
    augmented, _ = augmented_pair(blob() * 1.0, blob(), config, np.random.default_rng(seed))
    moved = np.abs(center(augmented.mask) - center(blob()))
    assert 0 < moved.max() <= 5.5


def test_zoom_rotation_and_shear_are_about_the_center():
    centred = blob(31.5, 31.5, 12)
    big, _ = augmented_pair(
        centred * 1.0, centred, EpisodeConfig(**STILL | {"zoom": (1.2, 1.2)}), np.random.default_rng(0)
    )
    assert big.mask.sum() == pytest.approx(1.44 * centred.sum(), rel=0.03)
    np.testing.assert_allclose(center(big.mask), [31.5, 31.5], atol=0.1)
    aside = blob(31.5, 51.5, 5)
    for name in ("rotation", "shear"):
        turned, _ = augmented_pair(
            aside * 1.0, aside, EpisodeConfig(**STILL | {name: 30.0}), np.random.default_rng(3)
        )
        y, x = center(turned.mask) - 31.5
        if name == "rotation":
            assert np.hypot(y, x) == pytest.approx(20, abs=0.3)
            assert abs(y) > 1
        else:
            assert turned.mask.sum() == pytest.approx(aside.sum(), rel=0.06), "a slant keeps areas"
            assert abs(y) < 0.3


def test_the_elastic_field_bends_by_less_than_its_factor():
    config = EpisodeConfig(**STILL | {"elastic_alpha": 100.0, "elastic_sigma": 3.0})
    stripe = np.zeros((64, 64), bool)
    stripe[30:34] = True
    augmented, _ = augmented_pair(stripe * 1.0, stripe, config, np.random.default_rng(0))
    tops = augmented.mask.argmax(axis=0)
    assert tops.std() > 0.5, "the stripe is no longer straight"


def test_gamma_keeps_order_and_range_of_gray_values():
    image_HW = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    config = EpisodeConfig(**STILL | {"gamma": (0.5, 0.5)})
    augmented, _ = augmented_pair(image_HW, blob(), config, np.random.default_rng(0))
    assert (augmented.image.min(), augmented.image.max()) == pytest.approx(
        (image_HW.min(), image_HW.max()), abs=1e-5
    )
    np.testing.assert_array_equal(augmented.image.ravel().argsort(), image_HW.ravel().argsort())
    span = np.ptp(image_HW)
    expected = image_HW.min() + span * ((image_HW - image_HW.min()) / span) ** 0.5
    np.testing.assert_allclose(augmented.image, expected, atol=1e-4)


def test_neighbors_are_deformed_like_their_slice():
    image_HW = blob() * 100.0
    stack = augmented_pair(
        np.stack([0 * image_HW, image_HW, image_HW]), blob(), None, np.random.default_rng(5)
    )
    alone = augmented_pair(image_HW, blob(), None, np.random.default_rng(5))
    for one, other in zip(stack, alone, strict=True):
        assert one.image.shape == (3, 64, 64)
        for place in (1, 2):
            np.testing.assert_array_equal(one.image[place], other.image)
        assert not one.image[0].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), corner=st.sampled_from([(0, 0), (0, 63), (63, 63), (2, 40)]))
def test_a_mask_is_never_moved_out_of_the_slice(seed, corner):
    mask_HW = np.zeros((64, 64), bool)
    mask_HW[corner] = True
    config = EpisodeConfig(shift=30.0)
    assert all(
        augmented.mask.any()
        for augmented in augmented_pair(mask_HW * 1.0, mask_HW, config, np.random.default_rng(seed))
    )


def test_an_empty_mask_and_another_shape_are_refused():
    random = np.random.default_rng(0)
    with pytest.raises(DataError, match="empty mask"):
        augmented_pair(np.zeros((8, 8)), np.zeros((8, 8)), None, random)
    with pytest.raises(DataError, match="do not fit"):
        augmented_pair(np.zeros((8, 8)), np.ones((8, 9)), None, random)
