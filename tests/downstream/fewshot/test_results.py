"""Slices of a scan that are kept for pictures."""

from __future__ import annotations

import numpy as np

from vetdino.downstream.fewshot.results import EXAMPLE_SLICES, FewshotResults, example_slices


def test_example_slices_are_spread_over_those_that_show_an_organ(organ_scan):
    query = organ_scan(0)
    labels = np.full_like(query.labels_ZHW, 2)
    example = example_slices(query, labels, {2: "kidneys"})
    assert example.scan == "s0"
    assert example.slices == (2, 3, 4, 5)
    assert len(example.slices) == EXAMPLE_SLICES
    assert example.image_nHW.dtype == np.uint8
    np.testing.assert_array_equal(example.predicted_nHW, labels[2:6])
    np.testing.assert_array_equal(example.truth_nHW, np.where(query.labels_ZHW[2:6] == 2, 2, 0))


def test_a_scan_that_shows_no_organ_has_examples_too(organ_scan):
    query = organ_scan(0, organs=[1])
    example = example_slices(query, query.labels_ZHW, {2: "kidneys"})
    assert example.slices == (1, 3, 5, 7)
    assert not example.truth_nHW.any()


def test_results_introduce_themselves():
    assert repr(FewshotResults({}, (), (), {}, {}, {})) == "FewshotResults(0 scores, 0 scans)"
