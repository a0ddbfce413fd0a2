"""Pixel features: intensities and gradients as angles, whatever the scan's brightness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.pixel_features import (
    GRADIENT_WEIGHT,
    SIGMAS,
    VALUE_LIMIT,
    PixelFeatures,
)
from vetdino.downstream.fewshot.method.slices import standardized
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import DataError


@pytest.mark.parametrize("grid", [4, 9])
def test_the_grid_is_as_fine_as_asked_for(ellipse_scan, grid):
    assert PixelFeatures(SliceConfig(grid=grid))(ellipse_scan(), [0]).shape[2:] == (grid, grid)
    assert PixelFeatures(SliceConfig(grid=grid, enlarged=12))(ellipse_scan(), [0]).shape[2:] == (12, 12)


def test_brightness_and_contrast_of_a_scan_do_not_matter(ellipse_scan):
    first, features = ellipse_scan(), PixelFeatures(SliceConfig(grid=8))
    other = replace(first, name="o", image_ZHW=3 * first.image_ZHW + 7)
    torch.testing.assert_close(features(first, [0]), features(other, [0]), atol=2e-4, rtol=1e-3)


def test_a_slices_features_do_not_depend_on_its_company_or_order(ellipse_scan):
    features = PixelFeatures()
    together, alone = features(ellipse_scan(), [2, 0]), features(ellipse_scan(), [0])
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-5)


def test_two_cells_are_as_similar_as_their_values_are_near(ellipse_scan):
    volume, kinds = ellipse_scan(), 1 + 2 * len(SIGMAS)
    [features] = PixelFeatures(SliceConfig(grid=40, pixel_coordinates=0))(volume, [1])
    assert features.shape == (2 * kinds, 40, 40)
    weight = 1 + len(SIGMAS) * (1 + GRADIENT_WEIGHT)
    torch.testing.assert_close(features.square().sum(dim=0), torch.full((40, 40), weight))
    angles = np.clip(standardized(volume)[1], -VALUE_LIMIT, VALUE_LIMIT) * np.pi / 2 / VALUE_LIMIT
    products = features[0] * features[0, 20, 20] + features[kinds] * features[kinds, 20, 20]
    np.testing.assert_allclose(products, np.cos(angles - angles[20, 20]), atol=1e-5)


def test_a_constant_scan_is_refused():
    flat = Volume("flat", np.full((2, 8, 8), 5.0, np.float32), None, (1.0, 1.0, 1.0), "ct", None)
    with pytest.raises(DataError, match="flat"):
        PixelFeatures()(flat, [0])
