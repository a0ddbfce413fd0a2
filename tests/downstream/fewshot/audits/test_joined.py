"""Classes that count as one organ."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.fewshot.audits.joined import join_classes
from vetdino.platform.core.errors import ConfigError


def test_nothing_to_join_is_the_folder_itself(scan, scans):
    volumes = scans(scan(0))
    assert join_classes(volumes, []) is volumes


def test_joined_classes_are_one_organ(scan, scans):
    both = join_classes(scans(scan(0)), ["2+3"])
    assert both.classes == {1: "liver", 2: "right kidney + left kidney"}
    before, after = scan(0).labels_ZHW, both.load("s0").labels_ZHW
    np.testing.assert_array_equal(after == 2, before >= 2)
    np.testing.assert_array_equal(after == 1, before == 1)
    assert join_classes(scans(scan(0)), ["left kidney + right kidney"]).classes == both.classes


def test_a_scan_without_labels_stays_without(scan, scans):
    assert join_classes(scans(scan(0, labeled=False)), ["2+3"]).load("s0").labels_ZHW is None


@pytest.mark.parametrize("words", ["2", "2+9", "2+2"])
def test_fewer_than_two_classes_are_refused(scan, scans, words):
    with pytest.raises(ConfigError):
        join_classes(scans(scan(0)), [words])
