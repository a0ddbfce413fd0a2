"""Margins along the scan, components slice by slice, and organs that compete for pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from vetdino.downstream.fewshot.method.config import PrototypeConfig
from vetdino.downstream.fewshot.method.edges import edge_aligned
from vetdino.downstream.fewshot.method.masks import label_map, organ_mask, slice_margins, smoothed_margins
from vetdino.downstream.fewshot.method.predictors import prototype_predictor
from vetdino.downstream.fewshot.method.slices import standardized
from vetdino.downstream.fewshot.method.support import build_support_set


def test_what_two_plans_share_is_predicted_once(organ_scan):
    calls = []

    def predictor(support, part, query, slices):
        calls.extend((part, z) for z in slices)
        return torch.full((len(slices), 32, 32), float(part))

    support = build_support_set(1, "liver", [organ_scan(0)])
    one, two = slice_margins(predictor, support, organ_scan(1), {1: 0, 2: 0, 3: 1}, {2: 0, 3: 2})
    assert sorted(calls) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert one[3][0, 0] == 1
    assert two[3][0, 0] == 2


def test_smoothing_is_a_gaussian_filter_along_the_scan():
    given = {z: np.random.default_rng(z).normal(size=(3, 4)).astype(np.float32) for z in range(4, 24)}
    # Slices beyond the ends have weight 0, and the other weights sum to 1.
    values, known = (
        gaussian_filter1d(np.pad(x, ((9, 9), (0, 0), (0, 0))), 2.0, axis=0, truncate=3, mode="constant")[9:-9]
        for x in (np.stack(list(given.values())), np.ones((20, 3, 4)))
    )
    smooth = smoothed_margins(given, 2.0)
    assert list(smooth) == list(given)
    np.testing.assert_allclose(np.stack(list(smooth.values())), values / known, atol=1e-5)
    assert smoothed_margins({}, 2.0) == {}


def test_margins_are_smoothed_where_asked_for(organ_scan, pixels):
    support, query, parts = (
        build_support_set(1, "liver", [organ_scan(0)]),
        organ_scan(1),
        dict.fromkeys(range(1, 7), 1),
    )
    predictor = prototype_predictor(pixels, PrototypeConfig())
    [plain], [smooth] = (
        slice_margins(predictor, support, query, parts, smooth=smooth) for smooth in (0.0, 1.0)
    )
    for z, margin_HW in smoothed_margins(plain, 1.0).items():
        np.testing.assert_allclose(smooth[z], margin_HW, atol=1e-4)


def test_margins_follow_edges_where_asked_for(organ_scan, pixels):
    support, query = build_support_set(1, "liver", [organ_scan(0)]), organ_scan(1)
    predictor = prototype_predictor(pixels, PrototypeConfig())
    [plain], [aligned] = (
        slice_margins(predictor, support, query, {3: 0, 4: 1}, edges=edges) for edges in (0.0, 0.0625)
    )
    for z in (3, 4):
        image = standardized(query)[z]
        np.testing.assert_allclose(aligned[z], edge_aligned(plain[z], image, 2), rtol=1e-5)
        assert not np.allclose(aligned[z], plain[z], atol=0.05)


def test_a_plans_margins_do_not_depend_on_another_plan(organ_scan, pixels):
    """Else a whole volume would learn from the protocol's plan where the query's truth lies."""
    support, query = build_support_set(1, "liver", [organ_scan(0)]), organ_scan(1)
    predictor = prototype_predictor(pixels, PrototypeConfig())
    one, two = {2: 0, 3: 0, 4: 1}, {4: 1, 5: 1, 6: 2}
    settings = {"smooth": 1.0, "edges": 0.05, "features": pixels}
    together = slice_margins(predictor, support, query, one, two, **settings)
    for plan, margins in zip((one, two), together, strict=True):
        [alone] = slice_margins(predictor, support, query, plan, **settings)
        assert list(margins) == list(alone)
        for z, margin in alone.items():
            np.testing.assert_allclose(margins[z], margin, atol=1e-4)
    [plain] = slice_margins(predictor, support, query, one, smooth=1.0, edges=0.05)
    assert not np.allclose(plain[3], together[0][3], atol=0.05)


@pytest.mark.parametrize(("components", "count"), [("1", 1), ("n", 2), ("all", 3)])
def test_as_many_components_are_kept_as_the_support_shows(organ_scan, components, count):
    support = build_support_set(2, "kidneys", [organ_scan(0)])
    margin = np.full((32, 32), -1.0, np.float32)
    for row, height in ((2, 3.0), (10, 2.0), (20, 1.0)):
        margin[row : row + 4, 4:8] = height
    mask = organ_mask({3: margin}, {3: 1}, support, components, (8, 32, 32))
    assert mask.sum() == 16 * count
    assert not mask[[0, 1, 2, 4, 5, 6, 7]].any()


def test_every_pixel_goes_to_the_organ_with_the_largest_margin(organ_scan):
    supports = {organ: build_support_set(organ, "organ", [organ_scan(0)]) for organ in (1, 2)}
    one, two = np.full((2, 32, 32), -1.0, np.float32)
    one[:10], two[5:15] = 1.0, 2.0
    parts = {1: {3: 1}, 2: {3: 1}}
    labels = label_map({1: {3: one}, 2: {3: two}}, parts, supports, "all", (8, 32, 32))
    assert labels.dtype == np.uint8
    assert (labels[3, :5] == 1).all()
    assert (labels[3, 5:15] == 2).all()
    assert not labels[3, 15:].any()
    assert not labels[[0, 1, 2, 4, 5, 6, 7]].any()
