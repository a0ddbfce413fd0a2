"""Organs where they belong and as large as they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.platform.phantom.abdomen.generated import EIGHT, NUMBER, center, scan
from vetdino.platform.phantom.abdomen.tissues import CLASSES

LITRES = {
    "liver": (0.6, 3.0),
    "right kidney": (0.06, 0.32),
    "left kidney": (0.06, 0.32),
    "spleen": (0.05, 0.5),
    "gallbladder": (0.006, 0.09),
    "aorta": (0.03, 0.25),
    "spine": (0.12, 0.7),
}
"""Adults' organs; aorta and spine as far as a scan holds them."""


@pytest.mark.parametrize("which", EIGHT, ids=str)
def test_every_organ_is_there_whole_and_of_human_size(which):
    made = scan(*which)
    assert made.labels_ZHW.dtype == np.uint8
    assert set(np.unique(made.labels_ZHW)) == {0, *CLASSES}
    voxel = made.grid.pixel**2 * made.grid.thickness
    for number, name in CLASSES.items():
        organ = made.labels_ZHW == number
        low, high = LITRES[name]
        assert low < organ.sum() * voxel / 1e6 < high, name
        if name != "spine":
            assert ndimage.label(organ)[1] == 1, name


@pytest.mark.parametrize("which", EIGHT, ids=str)
def test_right_is_right_and_left_is_left(which):
    at = {name: center(scan(*which), name) for name in NUMBER}
    assert at["right kidney"][0] > at["spine"][0] + 30  # RAS+: x grows to the patient's right
    assert at["left kidney"][0] < at["spine"][0] - 30
    assert at["liver"][0] > at["spine"][0] + 15
    assert at["spleen"][0] < at["left kidney"][0]
    assert at["aorta"][0] < at["spine"][0]
    assert at["gallbladder"][0] > at["spine"][0]
    assert at["spine"][1] < min(at[name][1] for name in NUMBER if name != "spine")
    assert at["gallbladder"][1] > at["right kidney"][1]
    assert at["right kidney"][2] < min(at["liver"][2], at["spleen"][2])


def test_organs_touch():
    """Somewhere in these scans the liver lies against the right kidney and the spleen against the left one."""
    for organ, other in (("liver", "right kidney"), ("spleen", "left kidney")):
        gaps = []
        for which in EIGHT:
            made = scan(*which)
            far = ndimage.distance_transform_edt(
                made.labels_ZHW != NUMBER[other], (made.grid.thickness, made.grid.pixel, made.grid.pixel)
            )
            gaps.append(far[made.labels_ZHW == NUMBER[organ]].min() / made.grid.pixel)
        assert min(gaps) < 2.1, organ
