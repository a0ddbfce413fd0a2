"""The support set of an organ: who shows it, in which slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.fewshot.method.protocol import support_slices
from vetdino.downstream.fewshot.method.support import (
    SupportSet,
    build_support_set,
    class_list,
    organ_truth,
    selected_classes,
)
from vetdino.platform.core.errors import ConfigError, DataError


def test_supports_that_do_not_show_the_organ_are_not_in_its_set(organ_scan):
    scans = [organ_scan(0), organ_scan(1, organs=[1]), replace(organ_scan(2), labels_ZHW=None)]
    support = build_support_set(2, "kidneys", scans, fold=3)
    assert repr(support) == "SupportSet(kidneys, 1 supports)"
    assert (support.organ, support.fold, support.volumes) == (2, 3, (scans[0],))
    assert support.slices == (support_slices(scans[0].labels_ZHW == 2),)


def test_masks_of_a_part_are_the_supports_slices_of_that_part(organ_scan):
    scans = (organ_scan(0), organ_scan(1))
    support = SupportSet(1, "liver", scans, ((1, 3, 6), (2, 4, 5)))
    for part, slices in enumerate(((1, 2), (3, 4), (6, 5))):
        expected = [volume.labels_ZHW[z] == 1 for volume, z in zip(scans, slices, strict=True)]
        np.testing.assert_array_equal(support.part_masks(part), expected)
    for mask, volume in zip(support.organ_masks(), scans, strict=True):
        np.testing.assert_array_equal(mask, volume.labels_ZHW == 1)


def test_the_truth_of_some_slices_comes_in_the_order_asked_for(organ_scan):
    volume = organ_scan(0)
    np.testing.assert_array_equal(organ_truth(volume, 2, [4, 0]), volume.labels_ZHW[[4, 0]] == 2)


def test_an_organ_that_no_support_shows_is_refused(organ_scan):
    with pytest.raises(DataError, match=r"class 3 \(spleen\) is in none of the supports \(s0\)"):
        build_support_set(3, "spleen", [organ_scan(0)])


def test_classes_are_those_named_or_all_and_unknown_ones_are_refused(organ_scan, organ_volumes):
    volumes = organ_volumes(organ_scan(0))
    assert selected_classes(volumes, ()) == {1: "liver", 2: "kidneys"}
    assert selected_classes(volumes, (2,)) == {2: "kidneys"}
    assert class_list(volumes) == "1 liver, 2 kidneys"
    with pytest.raises(ConfigError, match="no class 7"):
        selected_classes(volumes, (7,))
