"""Patch tokens of slices: layers, scales, strides, debiasing and coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method import token_features
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.slices import resized, standardized
from vetdino.downstream.fewshot.method.token_features import TokenFeatures
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import random_like


def test_tokens_are_those_of_the_networks_last_norm(ellipse_scan, tiny):
    volume = ellipse_scan()
    tokens = TokenFeatures(tiny, SliceConfig(grid=5, coordinates=0))(volume, [1])
    image = resized(standardized(volume)[[1]], 40, tiny.patch)
    expected = tiny.tokens(image).patches[0].T.unflatten(1, (5, 5))
    torch.testing.assert_close(tokens[0], expected, atol=1e-5, rtol=1e-5)


def test_a_grid_of_18_can_be_enlarged_to_32_as_the_released_code_does(ellipse_scan, tiny):
    coarse = TokenFeatures(tiny, SliceConfig(side=18 * tiny.patch, coordinates=0))(ellipse_scan(), [0])
    fine = TokenFeatures(tiny, SliceConfig(side=18 * tiny.patch, enlarged=32, coordinates=0))(
        ellipse_scan(), [0]
    )
    assert coarse.shape[2:] == (18, 18)
    assert fine.shape[2:] == (32, 32)


def test_the_side_said_behind_a_backbone_holds_unless_a_setting_says_another(ellipse_scan, tiny):
    shown = random_like(tiny)
    shown.card = replace(shown.card, input_side=6 * tiny.patch)
    assert TokenFeatures(shown, SliceConfig(coordinates=0))(ellipse_scan(), [0]).shape[2:] == (6, 6)
    assert TokenFeatures(shown, SliceConfig(side=4 * tiny.patch)).side == 4 * tiny.patch
    assert TokenFeatures(tiny, SliceConfig(grid=5)).side == 5 * tiny.patch


def test_layers_stand_one_after_the_other(ellipse_scan, tiny):
    both = TokenFeatures(tiny, SliceConfig(grid=4, layers=(0, -1), coordinates=0))(ellipse_scan(), [0])
    last = TokenFeatures(tiny, SliceConfig(grid=4, coordinates=0))(ellipse_scan(), [0])
    assert both.shape[1] == 2 * tiny.width
    assert torch.equal(both[:, tiny.width :], last)
    assert not torch.equal(both[:, : tiny.width], last)


def test_debiased_features_hold_nothing_of_a_blank_slices_strongest_directions(ellipse_scan, tiny):
    features = TokenFeatures(tiny, SliceConfig(grid=6, debias=3, coordinates=0))
    tokens = features(ellipse_scan(), [0])
    blank = (
        TokenFeatures(tiny, SliceConfig(grid=6)).encode(torch.zeros(1, 1, 48, 48)).detach()[0].flatten(1).T
    )
    directions = np.linalg.svd(blank.numpy())[2][:3]
    assert np.abs(directions @ tokens[0].flatten(1).numpy()).max() < 1e-4
    plain = TokenFeatures(tiny, SliceConfig(grid=6, coordinates=0))(ellipse_scan(), [0])
    assert np.abs(directions @ plain[0].flatten(1).numpy()).max() > 0.1


def test_coordinates_are_added_behind_features_of_mean_length_1(ellipse_scan, tiny):
    tokens = TokenFeatures(tiny, SliceConfig(grid=4, coordinates=0.5))(ellipse_scan(), [0])
    assert tokens.shape[1] == tiny.width + 4
    assert tokens[0, : tiny.width].square().sum(dim=0).mean() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(tokens[0, tiny.width :].norm(dim=0), torch.full((4, 4), 0.5))


def test_a_slice_is_seen_at_several_sizes_on_one_grid(ellipse_scan, tiny):
    volume, config = ellipse_scan(), SliceConfig(grid=5, coordinates=0)
    plain = TokenFeatures(tiny, config)(volume, [1])
    both = TokenFeatures(tiny, replace(config, scales=(1.0, 2.0)))(volume, [1])
    assert both.shape == (1, 2 * tiny.width, 5, 5)
    torch.testing.assert_close(both[:, : tiny.width], plain)
    image = resized(standardized(volume)[[1]], 40, tiny.patch)
    doubled = torch.nn.functional.interpolate(image, (80, 80), mode="bilinear", antialias=True)
    cells = tiny.tokens(doubled).patches[0].T.unflatten(1, (10, 10))[None]
    expected = torch.nn.functional.interpolate(cells, (5, 5), mode="bilinear", antialias=True)
    torch.testing.assert_close(both[:, tiny.width :], expected, atol=1e-5, rtol=1e-5)
    overlapping = replace(config, stride=4, debias=2, scales=(0.5, 1.5))
    assert TokenFeatures(tiny, overlapping)(volume, [0]).shape == (1, 2 * tiny.width, 5, 5)
    assert TokenFeatures(tiny, overlapping)(ellipse_scan(height=40, width=60), [0]).shape[2:] == (5, 9)


def test_a_long_slice_keeps_its_proportion(ellipse_scan, tiny):
    volume = ellipse_scan(height=40, width=60)
    assert TokenFeatures(tiny, SliceConfig(grid=4))(volume, [0]).shape[2:] == (4, 6)


@pytest.mark.parametrize("grid", [4, 9])
def test_the_grid_is_as_fine_as_asked_for(ellipse_scan, tiny, grid):
    for config in (SliceConfig(grid=grid), SliceConfig(grid=grid, stride=4)):
        assert TokenFeatures(tiny, config)(ellipse_scan(), [0]).shape[2:] == (grid, grid)


def test_brightness_and_contrast_of_a_scan_do_not_matter(ellipse_scan, tiny):
    first, features = ellipse_scan(), TokenFeatures(tiny, SliceConfig(grid=4))
    other = replace(first, name="o", image_ZHW=3 * first.image_ZHW + 7)
    torch.testing.assert_close(features(first, [0]), features(other, [0]), atol=2e-4, rtol=1e-3)


def test_a_slices_features_do_not_depend_on_its_company_or_order(ellipse_scan, tiny):
    features = TokenFeatures(tiny, SliceConfig(grid=4, coordinates=1.0))
    together, alone = features(ellipse_scan(), [2, 0]), features(ellipse_scan(), [0])
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-5)


def test_layers_and_directions_that_the_backbone_does_not_have_are_refused(ellipse_scan, tiny):
    with pytest.raises(ConfigError, match="no block 7"):
        TokenFeatures(tiny, SliceConfig(grid=4, layers=(7,)))
    with pytest.raises(ConfigError, match="stride 3"):
        TokenFeatures(tiny, SliceConfig(grid=4, stride=3))
    with pytest.raises(ConfigError, match="debias is 16"):
        TokenFeatures(tiny, SliceConfig(grid=4, debias=16))(ellipse_scan(), [0])


def test_overlapping_patches_are_laid_where_masks_and_scores_have_their_cells(tiny, monkeypatch):
    def centers(backbone, images_n1ST, layers, stride):
        places = [
            torch.arange(0, side - tiny.patch + 1, stride) + tiny.patch / 2 for side in images_n1ST.shape[2:]
        ]
        return torch.stack(torch.meshgrid(*places, indexing="ij")).expand(len(images_n1ST), -1, -1, -1)

    monkeypatch.setattr(token_features, "patch_tokens", centers)
    features = TokenFeatures(tiny, SliceConfig(grid=15, stride=2, coordinates=0))
    side, half = features.side, tiny.patch / 2
    (y_hw, x_hw) = features.encode(torch.zeros(1, 1, side, side))[0]
    expected = ((torch.arange(15) + 0.5) * side / 15).clamp(half, side - half)
    torch.testing.assert_close(y_hw, expected[:, None].expand(15, 15))
    torch.testing.assert_close(x_hw, expected.expand(15, 15))
