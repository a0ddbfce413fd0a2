"""Superpixels of small synthetic slices."""

from __future__ import annotations

import numpy as np
import pytest

from tests.downstream.fewshot.learn.speckled import scan
from vetdino.downstream.fewshot.learn.config import EpisodeConfig
from vetdino.downstream.fewshot.learn.superpixels import superpixels
from vetdino.downstream.fewshot.method.slices import body_mask

SMALL = EpisodeConfig(min_size=40)


@pytest.mark.parametrize("seed", range(3))
def test_superpixels_lie_in_the_body_and_the_background_is_none(seed):
    slice_HW = scan(seed).image_ZHW[2]
    parts_HW = superpixels(slice_HW, SMALL)
    assert parts_HW.max() >= 5
    assert not parts_HW[~body_mask(slice_HW)].any()
    assert parts_HW[body_mask(slice_HW)].astype(bool).mean() > 0.8


def test_superpixels_are_numbered_without_gaps_and_none_is_a_sliver():
    sizes = np.bincount(superpixels(scan().image_ZHW[2], SMALL).ravel())[1:]
    assert sizes.min() >= SMALL.min_size / 2


def test_superpixels_of_at_least_400_pixels_are_cut_from_a_slice_of_usual_size():
    large_HW = np.kron(scan().image_ZHW[2], np.ones((4, 4), np.float32))
    parts_HW = superpixels(large_HW)
    assert 5 <= parts_HW.max() <= parts_HW.astype(bool).sum() / 200


def test_an_organ_is_not_one_superpixel_with_the_air_around_the_body():
    volume = scan()
    within = superpixels(volume.image_ZHW[2], SMALL)[volume.labels_ZHW[2] == 1]
    assert (within > 0).mean() > 0.9


def test_a_slice_of_one_value_has_no_superpixel():
    assert not superpixels(np.full((64, 64), 7.0), SMALL).any()
