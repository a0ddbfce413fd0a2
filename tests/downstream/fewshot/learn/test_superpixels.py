"""Superpixels of small synthetic slices."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.fewshot.learn.config import EpisodeConfig
from vetdino.downstream.fewshot.learn.superpixels import superpixels
from vetdino.downstream.fewshot.method.slices import body_mask
from vetdino.downstream.volumes.volume import Volume

SMALL = EpisodeConfig(min_size=40)


def scan(seed: int = 0, labelled: bool = True) -> Volume:
    """A speckled body on black; organ 1 in slices 1 and 2, organ 2 in slices 2 and 3, of six."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :64, :64]
    labels = np.zeros(z.shape, np.uint8)
    labels[(np.hypot(y - 24, x - 24) < 9) & (z > 0) & (z < 3)] = 1
    labels[(np.hypot(y - 42, x - 40) < 6) & (z > 1) & (z < 4)] = 2
    body = np.hypot(y - 32, x - 32) < 26
    image = body * (70 + 60.0 * (labels == 1) + 110 * (labels == 2) + random.normal(0, 10, z.shape))
    image = np.clip(image.round(), 0, 255).astype(np.float32)
    return Volume(f"s{seed}", image, labels if labelled else None, (5.0, 1.5, 1.5), "mri", None)


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
