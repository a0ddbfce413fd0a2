"""Predictors: prototypes over features, the copied mask, the oracle; and features computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method.config import Compat, PrototypeConfig
from vetdino.downstream.fewshot.method.grid import upsample
from vetdino.downstream.fewshot.method.masks import organ_mask, slice_margins
from vetdino.downstream.fewshot.method.predictors import (
    CachedFeatures,
    FoldEncoders,
    copy_predictor,
    encoder_predictor,
    oracle_predictor,
    prototype_predictor,
)
from vetdino.downstream.fewshot.method.protocol import dice, parts_from_truth
from vetdino.downstream.fewshot.method.prototypes import predict
from vetdino.downstream.fewshot.method.support import SupportSet, build_support_set
from vetdino.downstream.volumes.volume import Volume

COMPATS = ("ours", "alpnet", "levayz")


def test_margins_are_those_of_the_prototypes_slice_by_slice(organ_scan, pixels):
    scan, query = organ_scan(0), organ_scan(1)
    support, config = build_support_set(1, "liver", [scan]), PrototypeConfig()
    margins = prototype_predictor(pixels, config)(support, 1, query, [3, 4])
    z = support.slices[0][1]
    mask = torch.from_numpy(scan.labels_ZHW[[z]] == 1)
    logits = predict(pixels(query, [4])[0], pixels(scan, [z]), mask, config)
    background, foreground = upsample(logits, 32, 32)
    torch.testing.assert_close(margins[1], foreground - background, atol=1e-4, rtol=1e-4)


def test_a_scan_that_supports_itself_is_segmented_and_the_oracle_is_the_bound(organ_scan, pixels):
    scan, scores = organ_scan(0), {}
    for organ, name in ((1, "liver"), (2, "kidneys")):
        support, truth = build_support_set(organ, name, [scan]), scan.labels_ZHW == organ
        parts = parts_from_truth(truth)
        for kind, predictor in (
            ("prototypes", prototype_predictor(pixels, PrototypeConfig())),
            ("oracle", oracle_predictor(lambda _: pixels, "ours")),
        ):
            [margins] = slice_margins(predictor, support, scan, parts)
            scores[kind, organ] = dice(organ_mask(margins, parts, support, "n", truth.shape), truth)
    assert min(value for (kind, _), value in scores.items() if kind == "prototypes") > 0.7
    assert min(value for (kind, _), value in scores.items() if kind == "oracle") > 0.85


def through_the_grid(mask_HW: torch.Tensor, h: int, w: int, compat: Compat) -> torch.Tensor:
    """(H, W) bool: the oracle's mask of a one-slice scan on a grid of h x w cells."""
    labels = mask_HW.numpy()[None].astype(np.uint8)
    query = Volume("s", labels.astype(np.float32), labels, (5.0, 1.0, 1.0), "mri", None)
    support = SupportSet(1, "liver", (query,), ((0, 0, 0),))
    oracle = oracle_predictor(lambda _: lambda volume, slices: torch.zeros(len(slices), 1, h, w), compat)
    return oracle(support, 0, query, [0])[0] > 0


@pytest.mark.parametrize("compat", COMPATS)
def test_the_oracle_loses_nothing_on_a_grid_as_fine_as_the_image(compat):
    mask = torch.rand(16, 24) > 0.5
    assert torch.equal(through_the_grid(mask, 16, 24, compat), mask)


def test_the_oracle_keeps_more_of_an_organ_by_its_area_than_by_a_corner():
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    mask = (rows - 44).square() / 2 + (columns - 51).square() < 300
    kept = {compat: dice(through_the_grid(mask, 12, 12, compat).numpy(), mask.numpy()) for compat in COMPATS}
    assert kept["ours"] > 0.95
    assert kept["alpnet"] > kept["levayz"]
    assert kept["levayz"] < 0.85


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("value", [True, False])
def test_the_oracle_gives_all_for_all_and_nothing_for_nothing(compat, value):
    mask = torch.full((20, 20), value)
    assert torch.equal(through_the_grid(mask, 6, 7, compat), mask)


def test_copy_gives_the_supports_own_mask_whatever_the_query(organ_scan):
    support = build_support_set(2, "kidneys", [organ_scan(0)])
    margins = copy_predictor(support, 0, organ_scan(5), [1, 2])
    assert margins.shape == (2, 32, 32)
    np.testing.assert_array_equal(margins[0] > 0, support.part_masks(0)[0])


def recording(calls: list[tuple[str, int]]):
    """Features that are the slice's number, and a note of every slice they are computed for."""

    def features(volume, slices):
        calls.extend((volume.name, z) for z in slices)
        return torch.tensor([[[[float(z)]]] for z in slices])

    return features


def test_features_are_computed_once_for_each_slice_and_old_scans_are_forgotten(organ_scan):
    calls: list[tuple[str, int]] = []
    cached = CachedFeatures(recording(calls), 2)
    first, second, third = (organ_scan(seed) for seed in (1, 2, 3))
    assert cached(first, [3, 1]).flatten().tolist() == [3, 1]
    assert cached(first, [1, 2, 3]).flatten().tolist() == [1, 2, 3]
    assert sorted(calls) == [("s1", 1), ("s1", 2), ("s1", 3)]
    for volume in (second, third, first):
        cached(volume, [1])
    assert calls[-1] == ("s1", 1)


def test_every_fold_and_organ_has_its_own_encoder_and_a_new_fold_forgets_the_last(organ_scan):
    calls: list[tuple[str, int]] = []
    shared, other = recording(calls), recording([])
    encoders = FoldEncoders({(0, 1): shared, (0, 2): shared, (1, 1): other}, 3)
    liver, kidneys, later = (
        build_support_set(organ, "organ", [organ_scan(0)], fold) for organ, fold in ((1, 0), (2, 0), (1, 1))
    )
    volume = organ_scan(1)
    assert encoders(liver) is encoders(kidneys)
    encoders(liver)(volume, [2])
    encoders(kidneys)(volume, [2])
    assert calls == [("s1", 2)]
    assert encoders(later).features is other
    encoders(liver)(volume, [2])
    assert calls == [("s1", 2)] * 2


def test_the_encoder_of_a_support_set_makes_its_prototypes_too(organ_scan, pixels):
    support, query = build_support_set(1, "liver", [organ_scan(0)]), organ_scan(1)
    chosen = []

    def encoder_for(one):
        chosen.append(one)
        return pixels

    margins = encoder_predictor(encoder_for, PrototypeConfig())(support, 1, query, [3])
    assert set(chosen) == {support}
    torch.testing.assert_close(
        margins, prototype_predictor(pixels, PrototypeConfig())(support, 1, query, [3])
    )
