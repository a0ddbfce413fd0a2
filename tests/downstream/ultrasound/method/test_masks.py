"""Masks at image size: enlarged by patches, refined at edges, counted pixel by pixel."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.masks import (
    Coverage,
    dice_and_iou,
    enlarge,
    interpolate,
    patch_shares,
    refine,
)
from vetdino.platform.core.errors import DataError


@pytest.fixture(scope="module")
def picture(disc):
    """A bright disc in noise, and a mask of coarse patches over it."""
    random = np.random.default_rng(0)
    truth = disc(64, 80, (32, 40), 17)
    pixels = np.clip(60 + 120 * truth + 12 * random.normal(size=truth.shape), 0, 255).astype(np.uint8)
    return pixels, truth, enlarge(truth[4::8, 4::8], 64, 80)


GRABCUT = CosegmentConfig(refine="grabcut", band=5)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=50)
def test_enlarged_gives_each_pixel_the_patch_its_center_falls_into(rows, columns, height, width, data):
    covered = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    grid = np.arange(rows * columns).reshape(rows, columns)
    image = enlarge(grid, height, width, Coverage(*covered), outside=-1)
    for y, x in itertools.product(range(height), range(width)):
        if y >= covered[0] or x >= covered[1]:
            assert image[y, x] == -1
        else:
            row, column = (2 * y + 1) * rows // (2 * covered[0]), (2 * x + 1) * columns // (2 * covered[1])
            assert image[y, x] == grid[row, column]


def test_enlarged_by_whole_patches_repeats_them_and_keeps_the_kind_of_number():
    grid = np.array([[True, False, True]])
    np.testing.assert_array_equal(enlarge(grid, 8, 24), np.kron(grid, np.ones((8, 8), bool)))
    assert enlarge(grid, 8, 24).dtype == bool
    assert not enlarge(grid, 8, 25, covered=Coverage(8, 24.4))[:, 24].any()


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([(8, 8), (8, 4), (8, 2), (14, 7), (5, 1)]),
    st.data(),
)
@settings(deadline=None, max_examples=50)
def test_patches_that_overlap_are_where_the_network_sees_them(rows, columns, lengths, data):
    """Against loops over the patches' own pixels: patch i covers i * stride .. i * stride + patch."""
    patch, stride = lengths
    height, width = ((count - 1) * stride + patch for count in (rows, columns))
    covered = Coverage(height, width, (patch - stride) / 2, (patch - stride) / 2)
    mask = data.draw(
        st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((height, width)) < 0.5)
    )
    grid = np.arange(rows * columns).reshape(rows, columns)
    shares, image = patch_shares(mask, grid.shape, covered), enlarge(grid, height, width, covered)
    places = np.array([(row, column) for row in range(rows) for column in range(columns)])
    centers = covered.centers(places, grid.shape)
    for (row, column), center in zip(places, centers, strict=True):
        box = (slice(row * stride, row * stride + patch), slice(column * stride, column * stride + patch))
        assert shares[row, column] == np.float32(mask[box].mean())
        assert center == pytest.approx([(one.start + one.stop - 1) / 2 for one in box])
    for y, x in itertools.product(range(height), range(width)):
        distance = np.abs(centers - (y, x))
        assert (distance[image[y, x]] <= distance.min(axis=0) + 1e-9).all()


@pytest.mark.parametrize("covered", [(0, 4), (9, 4), (4, 6)])
def test_patches_that_cover_more_than_the_image_are_refused(covered):
    with pytest.raises(DataError, match="of an image of 8x5"):
        enlarge(np.ones((2, 2), bool), 8, 5, Coverage(*covered))


def test_grabcut_moves_the_border_to_the_edge(picture):
    pixels, truth, coarse = picture
    finer = refine(coarse, pixels, GRABCUT)
    assert dice_and_iou(coarse, truth)[0] < 0.95
    assert dice_and_iou(finer, truth)[0] > 0.99
    assert finer.dtype == bool
    np.testing.assert_array_equal(refine(coarse, pixels, CosegmentConfig()), coarse)


def test_grabcut_gives_the_same_mask_whatever_was_drawn_before(picture):
    random = np.random.default_rng(1)
    pixels, mask = random.integers(0, 255, (64, 80)).astype(np.uint8), picture[2]
    first = refine(mask, pixels, GRABCUT)
    for seed in (5, 6):
        cv2.setRNGSeed(seed)
        np.testing.assert_array_equal(refine(mask, pixels, GRABCUT), first)


@pytest.mark.parametrize("fill", [0, 1])
def test_a_mask_of_nothing_or_everything_has_no_border_to_move(fill, picture):
    mask = np.full((20, 30), bool(fill))
    np.testing.assert_array_equal(refine(mask, picture[0][:20, :30], GRABCUT), mask)


@pytest.mark.parametrize("fill", [0, 1])
def test_a_mask_of_one_pixel_or_all_but_one_is_refined_without_a_word(fill, picture):
    mask = np.full((20, 30), bool(fill))
    mask[7, 7] = not fill
    assert refine(mask, picture[0][:20, :30], GRABCUT).shape == (20, 30)


def test_pictures_that_do_not_fit_the_mask_are_refused(picture):
    pixels, _, coarse = picture
    with pytest.raises(DataError, match="a mask of 64x80 for a picture of 63x80"):
        refine(coarse, pixels[1:], GRABCUT)


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_overlap_is_counted_pixel_by_pixel_and_iou_follows_from_dice(seed, one, other):
    random = np.random.default_rng(seed)
    a, b = random.random((5, 7)) < one, random.random((5, 7)) < other
    dice, iou = dice_and_iou(a, b)
    both = sum(bool(x and y) for x, y in zip(a.flat, b.flat, strict=True))
    either = sum(bool(x or y) for x, y in zip(a.flat, b.flat, strict=True))
    assert iou == pytest.approx(both / either if either else 1)
    assert iou == pytest.approx(dice / (2 - dice))


def test_both_empty_is_one_and_one_empty_is_nought():
    empty, full = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    assert dice_and_iou(empty, empty) == (1, 1)
    assert dice_and_iou(empty, full) == dice_and_iou(full, empty) == (0, 0)
    with pytest.raises(DataError, match="a mask of 2x3 for a truth of 2x2"):
        dice_and_iou(empty, full[:, :2])


# Shares of patches ---------------------------------------------------------------------------------


def test_a_share_is_the_mean_of_the_mask_over_a_patch():
    mask = np.zeros((4, 7), bool)
    mask[:2, :3] = True
    assert patch_shares(mask, (2, 3), Coverage(4, 6)).tolist() == [[1, 0.5, 0], [0, 0, 0]]


def test_no_share_is_above_1():
    # OpenCV's weights sum to 1.0000002 here, so the share outside would be below 0.
    mask = np.zeros((515, 518), bool)
    mask[:300] = True
    assert patch_shares(mask, (55, 55), Coverage(515, 518)).max() == 1


@given(st.integers(1, 5), st.integers(1, 5), st.integers(5, 23), st.integers(5, 23), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_interpolated_values_are_those_of_a_slow_loop(rows, columns, height, width, seed):
    random = np.random.default_rng(seed)
    values = random.random((rows, columns))
    covered = Coverage(height * random.uniform(0.6, 1), width * random.uniform(0.6, 1))
    found = interpolate(values, height, width, covered)
    for y, x in np.ndindex(height, width):
        if y + 0.5 >= covered.rows or x + 0.5 >= covered.columns:
            assert found[y, x] == 0
            continue
        row = min(max((y + 0.5) * rows / covered.rows - 0.5, 0), rows - 1)
        column = min(max((x + 0.5) * columns / covered.columns - 0.5, 0), columns - 1)
        expected = 0.0
        for r, c in np.ndindex(rows, columns):
            expected += max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c)) * values[r, c]
        assert found[y, x] == pytest.approx(expected, abs=1e-9)
