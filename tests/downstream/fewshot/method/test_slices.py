"""Standardized intensities, the body, and positions within it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method.slices import (
    body_coordinates,
    body_mask,
    intensity_scale,
    resized,
    standardized,
    with_coordinates,
)
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import DataError


def test_a_scan_is_normalised_by_its_own_mean_and_deviation(ellipse_scan):
    values = standardized(ellipse_scan())
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-5
    assert values.std() == pytest.approx(1, abs=1e-5)


def test_coordinates_follow_the_body_not_the_slice():
    slice_HW = np.zeros((40, 40), np.float32)
    slice_HW[8:28, 8:28] = 100
    moved_HW = np.roll(slice_HW, (4, 3), (0, 1))
    here, there = body_coordinates(slice_HW, 40, 40), body_coordinates(moved_HW, 40, 40)
    np.testing.assert_allclose(here[:, 12:24, 12:24], there[:, 16:28, 15:27], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(here, axis=0), 1, atol=1e-6)
    assert abs(here[1, 18, 18]) < 0.1, "the middle row of the body has sine 0"


def test_two_places_are_less_alike_the_further_they_lie_apart():
    places = body_coordinates(np.pad(np.full((30, 30), 9.0, np.float32), 3), 12, 12)[:, 5]
    alike = places.T @ places[:, 1]
    assert (np.diff(alike[1:11]) < 0).all()


def test_the_body_is_its_largest_part_with_holes_filled():
    slice_HW = np.zeros((60, 60), np.float32)
    slice_HW[10:45, 10:45] = 100
    slice_HW[20:30, 20:30] = 0
    slice_HW[52:58, 52:58] = 100
    body = body_mask(slice_HW)
    assert body[25, 25]
    assert not body[55, 55]
    assert body_mask(np.zeros((5, 5), np.float32)).all()


def test_what_is_far_brighter_than_the_body_leaves_its_greys_as_they_were(ellipse_scan):
    plain = ellipse_scan(height=60, width=60)
    full = plain.image_ZHW.copy()
    full[:, 24:36, 24:36] = 4000
    values, there = standardized(plain), standardized(replace(plain, image_ZHW=full))
    body = (plain.image_ZHW > 0) & (full < 4000)
    span, other = (np.ptp(np.percentile(one[body], (5, 95))) for one in (values, there))
    assert other > 0.3 * span, "by mean and deviation alone it would be a twentieth"
    assert abs(there.mean()) < 1e-5
    assert there.std() == pytest.approx(1, abs=1e-4)
    greys = intensity_scale(plain)
    assert greys.top > plain.image_ZHW.max()
    np.testing.assert_allclose(values, (plain.image_ZHW - greys.mean) / greys.std, atol=1e-5)


@pytest.mark.parametrize(("side", "medians"), [(6, 5), (16, 3)])
def test_a_large_bright_thing_is_clipped_to_the_brightness_of_organs(side, medians):
    """side: of a square in a body of 60 x 60, 1 % and 7 % of it."""
    image_1HW = np.zeros((1, 80, 80), np.float32)
    image_1HW[:, 10:70, 10:70] = 20
    image_1HW[:, 30:50, 30:50] = 60
    image_1HW[:, 20 : 20 + side, 20 : 20 + side] = 250
    scan = Volume("1", image_1HW, None, (1.0, 1.0, 1.0), "mri", None)
    assert intensity_scale(scan).top == medians * 20
    assert intensity_scale(replace(scan, modality="ct")).top == np.inf


def test_what_is_far_brighter_than_the_body_does_not_pass_for_it():
    y, x = np.mgrid[:120, :120]
    body = np.hypot((y - 60) / 40, (x - 60) / 50) < 1
    stomach = np.hypot((y - 50) / 20, (x - 80) / 22) < 1
    random = np.random.default_rng(0)
    slice_HW = (20.0 * body + 230 * stomach + random.uniform(0, 3, body.shape)).astype(np.float32)
    mask = body_mask(slice_HW)
    assert (mask & body).sum() > 0.97 * body.sum()
    assert (mask & ~body).sum() < 0.1 * body.sum()
    plain = body_coordinates((20.0 * body).astype(np.float32), 30, 30)
    assert np.einsum("chw,chw->hw", plain, body_coordinates(slice_HW, 30, 30)).min() > 0.99


def test_a_constant_scan_is_refused():
    flat = Volume("flat", np.full((2, 8, 8), 5.0, np.float32), None, (1.0, 1.0, 1.0), "ct", None)
    with pytest.raises(DataError, match="flat: no contrast"):
        standardized(flat)


def test_a_slice_is_resized_by_its_shorter_side():
    slices = np.random.default_rng(0).random((2, 40, 61)).astype(np.float32)
    images = resized(slices, side=32, patch=8)
    assert images.shape == (2, 1, 32, 48)
    np.testing.assert_allclose(images.mean(), slices.mean(), atol=0.02)


def test_features_without_coordinates_are_left_as_they_are(ellipse_scan):
    features = torch.randn(1, 3, 4, 4)
    assert with_coordinates(features, ellipse_scan(), [0], 0.0) is features
