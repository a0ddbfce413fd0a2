"""The prepared grid: whatever way a body was stored it comes out the same, and masks find their way back."""

from __future__ import annotations

import json
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.volumes.grid import (
    CANONICAL,
    Grid,
    affine_of,
    axes_of,
    canonical_affine,
    grid_from_card,
    plan_grid,
    resample_to_grid,
    restore_from_grid,
    to_canonical,
    voxel_volume,
)
from vetdino.platform.core.errors import DataError

AXES = ["".join(axes) for pairs in permutations(("LR", "PA", "IS")) for axes in product(*pairs)]


nice = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("axes", AXES)
def test_any_of_the_48_ways_to_store_a_body_gives_the_same_slices(axes, stored):
    array_ZHW = np.random.default_rng(0).normal(size=(3, 4, 5))
    array, affine = stored(array_ZHW, axes)
    assert axes_of(affine) == axes
    np.testing.assert_array_equal(to_canonical(array, axes_of(affine)), array_ZHW)
    expected = affine_of(CANONICAL, (5.0, 2.0, 1.5))
    np.testing.assert_allclose(canonical_affine(affine, array.shape), expected, atol=1e-9)


@nice
@given(
    axes=st.sampled_from(AXES),
    shape=st.tuples(*[st.integers(3, 20)] * 3),
    side=st.integers(2, 40),
    border=st.sampled_from((0.0, 0.0625, 0.2)),
    spacing=st.sampled_from(((0.0, 0.0, 0.0), (7.7, 1.25, 1.25), (2.0, 3.0, 1.0))),
)
def test_orientation_never_shows_on_the_prepared_grid(axes, shape, side, border, spacing, stored):
    array_ZHW = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    result = []
    for way in ("SPL", axes):
        array, affine = stored(array_ZHW, way)
        grid = plan_grid(array.shape, affine, side=side, border=border, spacing=spacing)
        result.append((resample_to_grid(to_canonical(array, grid.axes), grid, nearest=False), grid.spacing))
    np.testing.assert_array_equal(result[0][0], result[1][0])
    np.testing.assert_allclose(result[0][1], result[1][1])


@nice
@given(axes=st.sampled_from(AXES), shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 9))
def test_a_mask_on_a_finer_grid_comes_back_voxel_by_voxel(axes, shape, seed, stored):
    labels_ZHW = np.random.default_rng(seed).integers(0, 4, shape, dtype=np.uint8)
    array, affine = stored(labels_ZHW, axes)
    # A square that holds everything at a finer spacing: nothing is lost.
    grid = plan_grid(array.shape, affine, side=64, border=0, spacing=(3.0, 0.5, 0.7))
    assert max(grid.resized[1:]) <= 64
    prepared = resample_to_grid(to_canonical(array, axes), grid, nearest=True)
    np.testing.assert_array_equal(restore_from_grid(prepared, grid), array)


@pytest.mark.slow
@nice
@given(
    axes=st.sampled_from(AXES),
    shape=st.tuples(*[st.integers(4, 10)] * 3),
    side=st.integers(2, 24),
    border=st.sampled_from((0.0, 0.1)),
    spacing=st.sampled_from(((0.0, 0.0, 0.0), (9.0, 4.0, 2.5), (2.0, 1.0, 1.0))),
)
def test_a_mask_comes_back_to_where_its_voxels_lie_in_mm(axes, shape, side, border, spacing, stored):
    """Against a slow loop: each stored voxel, by its affine, in the prepared voxel that its centre falls into."""
    array, affine = stored(np.zeros(shape, np.uint8), axes)
    grid = plan_grid(array.shape, affine, side=side, border=border, spacing=spacing)
    mask = np.random.default_rng(2).integers(1, 200, grid.prepared, dtype=np.uint8)
    back = restore_from_grid(mask, grid)
    to_place = np.linalg.inv(canonical_affine(affine, array.shape)) @ affine
    cut = (0, *grid.border)
    for index in np.ndindex(array.shape):
        place = np.rint((to_place @ [*index, 1])[:3]).astype(int)  # z, y, x before the cut
        kept = [count - 2 * lost for count, lost in zip(grid.oriented, cut, strict=True)]
        inner = [
            (2 * (at - lost) + 1) * n // (2 * k)
            for at, lost, n, k in zip(place, cut, grid.resized, kept, strict=True)
        ]
        inside = all(0 <= at - lost < k for at, lost, k in zip(place, cut, kept, strict=True))
        for axis in (1, 2):
            spare = grid.side - grid.resized[axis]
            inner[axis] += spare // 2 if spare >= 0 else -(-spare // 2)
            inside &= 0 <= inner[axis] < grid.side
        assert back[index] == (mask[tuple(inner)] if inside else 0)


def test_the_same_grid_changes_nothing():
    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.float32)
    grid = plan_grid(
        array.shape, affine_of("SPL", (7.7, 1.25, 1.25)), side=8, border=0, spacing=(7.7, 1.25, 1.25)
    )
    np.testing.assert_array_equal(resample_to_grid(array, grid, nearest=False), array)


def test_pixels_that_become_fewer_are_averaged():
    array = np.arange(64.0).reshape(1, 8, 8)
    grid = plan_grid(array.shape, affine_of("SPL", (5, 1, 1)), side=4, border=0, spacing=(0, 0, 0))
    np.testing.assert_allclose(
        resample_to_grid(array, grid, nearest=False)[0],
        array.reshape(4, 2, 4, 2).mean(axis=(1, 3)),
        rtol=1e-6,
    )
    assert grid.spacing == (5, 2, 2)


def test_the_published_ct_grid_is_448_of_512_pixels_on_256():
    grid = plan_grid(
        (512, 512, 90), np.diag([-0.8, -0.8, 3.0, 1.0]), side=256, border=0.0625, spacing=(0, 0, 0)
    )
    assert (grid.border, grid.resized) == ((32, 32), (90, 256, 256))
    np.testing.assert_allclose(grid.spacing, (3, 1.4, 1.4))


def test_the_published_mri_grid_is_the_center_at_a_quarter_more_than_a_millimetre():
    grid = plan_grid(
        (320, 320, 36), np.diag([-1.25, -1.25, 7.7, 1.0]), side=256, border=0, spacing=(7.7, 1.25, 1.25)
    )
    array = np.zeros((36, 320, 320), np.float32)
    array[:, 32, 32], array[:, 287, 287], array[:, 31, 31] = 1, 2, 3
    prepared = resample_to_grid(array, grid, nearest=False)
    assert prepared.shape == (36, 256, 256)
    assert (prepared[0, 0, 0], prepared[0, -1, -1], prepared.max()) == (1, 2, 2)


def test_pixels_that_are_not_square_keep_their_proportions():
    grid = plan_grid((4, 100, 50), affine_of("SPL", (5, 1.0, 1.0)), side=50, border=0, spacing=(0, 0, 0))
    assert grid.resized == (4, 50, 25)


def test_a_grid_survives_its_card():
    grid = plan_grid((4, 5, 6), affine_of("LPS", (1, 2, 3)), side=8, border=0.2, spacing=(0, 0, 0))
    again = grid_from_card(json.loads(json.dumps(grid.card())))
    assert again.card() == grid.card()
    assert isinstance(again, Grid)


def test_a_mask_of_another_shape_is_refused():
    grid = plan_grid((4, 5, 6), np.eye(4), side=8, border=0, spacing=(0, 0, 0))
    with pytest.raises(DataError, match="4x8x8 does not lie on slices of 6x8x8"):
        restore_from_grid(np.zeros((4, 8, 8), np.uint8), grid)


def test_a_grid_of_another_plane_is_that_of_the_same_scan_turned():
    array = (
        np.random.default_rng(0).normal(size=(5, 9, 8)).astype(np.float32)
    )  # sagittal as stored: left, down, back
    affine = affine_of("LIP", (4.0, 1.0, 1.0))
    grid = plan_grid(array.shape, affine, side=9, border=0, spacing=(0, 0, 0), plane="sagittal")
    assert (grid.resized, grid.spacing) == ((5, 9, 8), (4, 1, 1))
    prepared = resample_to_grid(to_canonical(array, grid.axes, "sagittal"), grid, nearest=True)
    np.testing.assert_array_equal(prepared[:, :, :8], array)
    np.testing.assert_array_equal(restore_from_grid(prepared, grid), array)
    np.testing.assert_allclose(canonical_affine(affine, array.shape, "sagittal"), affine)
    again = grid_from_card(json.loads(json.dumps(grid.card())))
    assert again.plane == "sagittal"
    old = {name: value for name, value in grid.card().items() if name != "plane"}
    assert grid_from_card(old).plane == "axial"


def test_steps_are_the_spacing_unless_the_grid_is_sheared():
    affine = affine_of("SPL", (5.0, 2.0, 1.5))
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    grid = plan_grid((6, 8, 10), turned @ affine, side=5, border=0, spacing=(0, 0, 0))
    np.testing.assert_array_equal(grid.steps, np.diag(grid.spacing))
    assert voxel_volume(grid.steps) == np.prod(grid.spacing)
    affine[1, 0] = 2.0  # each slice 2 mm further to the front
    grid = plan_grid((6, 8, 10), affine, side=5, border=0, spacing=(0, 0, 0))
    np.testing.assert_allclose(grid.steps[0], [0, 2, 5])
    assert voxel_volume(grid.steps) == pytest.approx(
        5 * 2 * 1.5 * (8 * 10) / (grid.resized[1] * grid.resized[2])
    )


def test_a_grid_too_large_for_memory_is_refused():
    with pytest.raises(
        DataError, match=r"30x320x320 voxels of 7.7e\+03x1.25e\+03x1.25e\+03 mm would be resampled"
    ):
        plan_grid(
            (320, 320, 30), np.diag([1250.0, 1250, 7700, 1]), side=256, border=0, spacing=(7.7, 1.25, 1.25)
        )
