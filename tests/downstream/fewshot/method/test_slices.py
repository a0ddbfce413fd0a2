"""Features of slices: volume-normalised, any source alike, place removed or added."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.slices import (
    PixelFeatures,
    TokenFeatures,
    body_of,
    greys_of,
    places_of,
    resized,
    standardised,
)
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, DataError


def scan(seed: int = 0, slices: int = 3, height: int = 40, width: int = 40) -> Volume:
    """A bright ellipse with speckle on black."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.3 * width)) ** 2 < 1
    image = inside * random.uniform(80, 200, (slices, height, width))
    return Volume(f"s{seed}", image.astype(np.float32), None, (5.0, 1.0, 1.0), "mri", None)


def test_a_scan_is_normalised_by_its_own_mean_and_deviation():
    values = standardised(scan())
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-5
    assert values.std() == pytest.approx(1, abs=1e-5)


def test_brightness_and_contrast_of_a_scan_do_not_matter(tiny):
    first = scan()
    other = Volume("o", 3 * first.image_ZHW + 7, None, first.spacing, "mri", None)
    for features in (TokenFeatures(tiny, SliceConfig(grid=4)), PixelFeatures(SliceConfig(grid=8))):
        torch.testing.assert_close(features(first, [0]), features(other, [0]), atol=2e-4, rtol=1e-3)


def test_tokens_are_those_of_the_networks_last_norm(tiny):
    volume = scan()
    found = TokenFeatures(tiny, SliceConfig(grid=5, coordinates=0))(volume, [1])
    image = resized(standardised(volume)[[1]], 40, tiny.patch)
    expected = tiny.tokens(image).patches[0].T.unflatten(1, (5, 5))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [4, 9])
def test_the_grid_is_as_fine_as_asked_for(tiny, grid):
    assert TokenFeatures(tiny, SliceConfig(grid=grid))(scan(), [0]).shape[2:] == (grid, grid)
    assert TokenFeatures(tiny, SliceConfig(grid=grid, stride=4))(scan(), [0]).shape[2:] == (grid, grid)
    assert PixelFeatures(SliceConfig(grid=grid))(scan(), [0]).shape[2:] == (grid, grid)


def test_a_grid_of_18_can_be_enlarged_to_32_as_the_released_code_does(tiny):
    coarse = TokenFeatures(tiny, SliceConfig(side=18 * tiny.patch, coordinates=0))(scan(), [0])
    fine = TokenFeatures(tiny, SliceConfig(side=18 * tiny.patch, enlarged=32, coordinates=0))(scan(), [0])
    assert coarse.shape[2:] == (18, 18)
    assert fine.shape[2:] == (32, 32)


def test_a_slices_features_do_not_depend_on_its_company_or_order(tiny):
    for features in (TokenFeatures(tiny, SliceConfig(grid=4, coordinates=1.0)), PixelFeatures()):
        together, alone = features(scan(), [2, 0]), features(scan(), [0])
        torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-5)


def test_layers_stand_one_after_the_other(tiny):
    both = TokenFeatures(tiny, SliceConfig(grid=4, layers=(0, -1), coordinates=0))(scan(), [0])
    last = TokenFeatures(tiny, SliceConfig(grid=4, coordinates=0))(scan(), [0])
    assert both.shape[1] == 2 * tiny.width
    assert torch.equal(both[:, tiny.width :], last)
    assert not torch.equal(both[:, : tiny.width], last)


def test_debiased_features_hold_nothing_of_a_blank_slices_strongest_directions(tiny):
    features = TokenFeatures(tiny, SliceConfig(grid=6, debias=3, coordinates=0))
    found = features(scan(), [0])
    blank = TokenFeatures(tiny, SliceConfig(grid=6)).seen(torch.zeros(1, 1, 48, 48)).detach()[0].flatten(1).T
    directions = np.linalg.svd(blank.numpy())[2][:3]
    assert np.abs(directions @ found[0].flatten(1).numpy()).max() < 1e-4
    plain = TokenFeatures(tiny, SliceConfig(grid=6, coordinates=0))(scan(), [0])
    assert np.abs(directions @ plain[0].flatten(1).numpy()).max() > 0.1


def test_coordinates_follow_the_body_not_the_slice():
    slice_HW = np.zeros((40, 40), np.float32)
    slice_HW[8:28, 8:28] = 100
    moved_HW = np.roll(slice_HW, (4, 3), (0, 1))
    here, there = places_of(slice_HW, 40, 40), places_of(moved_HW, 40, 40)
    np.testing.assert_allclose(here[:, 12:24, 12:24], there[:, 16:28, 15:27], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(here, axis=0), 1, atol=1e-6)
    assert abs(here[1, 18, 18]) < 0.1, "the middle row of the body has sine 0"


def test_two_places_are_less_alike_the_further_they_lie_apart():
    places = places_of(np.pad(np.full((30, 30), 9.0, np.float32), 3), 12, 12)[:, 5]
    alike = places.T @ places[:, 1]
    assert (np.diff(alike[1:11]) < 0).all()


def test_the_body_is_its_largest_part_with_holes_filled():
    slice_HW = np.zeros((60, 60), np.float32)
    slice_HW[10:45, 10:45] = 100
    slice_HW[20:30, 20:30] = 0
    slice_HW[52:58, 52:58] = 100
    body = body_of(slice_HW)
    assert body[25, 25]
    assert not body[55, 55]
    assert body_of(np.zeros((5, 5), np.float32)).all()


def test_what_is_far_brighter_than_the_body_leaves_its_greys_as_they_were():
    plain = scan(height=60, width=60)
    full = plain.image_ZHW.copy()
    full[:, 24:36, 24:36] = 4000
    values, there = standardised(plain), standardised(replace(plain, image_ZHW=full))
    body = (plain.image_ZHW > 0) & (full < 4000)
    span, other = (np.ptp(np.percentile(one[body], (5, 95))) for one in (values, there))
    assert other > 0.3 * span, "by mean and deviation alone it would be a twentieth"
    assert abs(there.mean()) < 1e-5
    assert there.std() == pytest.approx(1, abs=1e-4)
    greys = greys_of(plain)
    assert greys.top > plain.image_ZHW.max()
    np.testing.assert_allclose(values, (plain.image_ZHW - greys.mean) / greys.std, atol=1e-5)


def test_what_is_far_brighter_than_the_body_does_not_pass_for_it():
    y, x = np.mgrid[:120, :120]
    body = np.hypot((y - 60) / 40, (x - 60) / 50) < 1
    stomach = np.hypot((y - 50) / 20, (x - 80) / 22) < 1
    random = np.random.default_rng(0)
    slice_HW = (20.0 * body + 230 * stomach + random.uniform(0, 3, body.shape)).astype(np.float32)
    found = body_of(slice_HW)
    assert (found & body).sum() > 0.97 * body.sum()
    assert (found & ~body).sum() < 0.1 * body.sum()
    plain = places_of((20.0 * body).astype(np.float32), 30, 30)
    assert np.einsum("chw,chw->hw", plain, places_of(slice_HW, 30, 30)).min() > 0.99


def test_coordinates_are_added_behind_features_of_mean_length_1(tiny):
    found = TokenFeatures(tiny, SliceConfig(grid=4, coordinates=0.5))(scan(), [0])
    assert found.shape[1] == tiny.width + 4
    assert found[0, : tiny.width].square().sum(dim=0).mean() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(found[0, tiny.width :].norm(dim=0), torch.full((4, 4), 0.5))


def test_a_slice_is_seen_at_several_sizes_on_one_grid(tiny):
    volume, config = scan(), SliceConfig(grid=5, coordinates=0)
    plain = TokenFeatures(tiny, config)(volume, [1])
    both = TokenFeatures(tiny, replace(config, scales=(1.0, 2.0)))(volume, [1])
    assert both.shape == (1, 2 * tiny.width, 5, 5)
    torch.testing.assert_close(both[:, : tiny.width], plain)
    image = resized(standardised(volume)[[1]], 40, tiny.patch)
    doubled = torch.nn.functional.interpolate(image, (80, 80), mode="bilinear", antialias=True)
    cells = tiny.tokens(doubled).patches[0].T.unflatten(1, (10, 10))[None]
    expected = torch.nn.functional.interpolate(cells, (5, 5), mode="bilinear", antialias=True)
    torch.testing.assert_close(both[:, tiny.width :], expected, atol=1e-5, rtol=1e-5)
    overlapping = replace(config, stride=4, debias=2, scales=(0.5, 1.5))
    assert TokenFeatures(tiny, overlapping)(volume, [0]).shape == (1, 2 * tiny.width, 5, 5)
    assert TokenFeatures(tiny, overlapping)(scan(height=40, width=60), [0]).shape[2:] == (5, 9)


def test_a_long_slice_keeps_its_proportion(tiny):
    volume = scan(height=40, width=60)
    assert TokenFeatures(tiny, SliceConfig(grid=4))(volume, [0]).shape[2:] == (4, 6)


def test_nothing_to_see_and_wrong_settings_are_refused(tiny):
    flat = Volume("flat", np.full((2, 8, 8), 5.0, np.float32), None, (1.0, 1.0, 1.0), "ct", None)
    with pytest.raises(DataError, match="flat: no contrast"):
        PixelFeatures()(flat, [0])
    for scales in ((), (0.0,), (1.0, float("inf"))):
        with pytest.raises(ConfigError, match="scales"):
            SliceConfig(scales=scales)
    with pytest.raises(ConfigError, match="no block 7"):
        TokenFeatures(tiny, SliceConfig(grid=4, layers=(7,)))(scan(), [0])
    with pytest.raises(ConfigError, match="debias is 16"):
        TokenFeatures(tiny, SliceConfig(grid=4, debias=16))(scan(), [0])
    for wrong in ({"grid": 0}, {"layers": ()}, {"side": -1}, {"coordinates": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SliceConfig(**wrong)
