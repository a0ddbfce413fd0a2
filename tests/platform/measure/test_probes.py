"""Probes: pictures that differ, and vectors that come back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import probed, view_vectors
from vetdino.platform.measure.probes import SIZES, Probes, probe_pictures
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig


def drawn(width=5):
    return Probes(probe_pictures(), np.random.default_rng(0).normal(size=(8, width)).astype(np.float32))


def test_the_pictures_are_eight_different_views_of_many_shapes():
    views = drawn().views()
    assert [view.shape for view in views] == list(SIZES)
    assert {view.dtype for view in views} == {np.dtype(np.uint8)}
    assert len(set(probe_pictures())) == 8
    assert all(view.std() > 20 for view in views)


def test_probes_come_back_from_json():
    probes = drawn()
    back = Probes.from_json(json.loads(json.dumps(probes.to_json())))
    assert back.pictures == probes.pictures
    np.testing.assert_allclose(back.vectors, probes.vectors, atol=1e-6)
    assert repr(back) == "Probes(8 pictures, 5 dimensions)"


@pytest.mark.parametrize("change", [{"vectors": [1.0] * 8}, {"png": []}, {"png": ["§"] * 8}])
def test_what_is_no_set_of_probes_is_refused(change):
    with pytest.raises(ValueError):  # noqa: PT011
        Probes.from_json({**drawn().to_json(), **change})


def test_cosines_are_those_of_each_probe_with_itself():
    probes = drawn()
    np.testing.assert_allclose(probes.cosines(3 * probes.vectors), np.ones(8))
    np.testing.assert_allclose(probes.cosines(-probes.vectors), -np.ones(8))


@pytest.mark.parametrize("descriptor", [Descriptor(), Descriptor("cls+mean", 2)])
def test_a_backbone_makes_of_them_what_it_makes_of_any_view(descriptor):
    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    backbone = random_backbone(config, seed=0)
    probes = probed(backbone, descriptor)
    for view, vector in zip(probes.views(), probes.vectors, strict=True):
        np.testing.assert_allclose(view_vectors(backbone, [view], descriptor)[0], vector, atol=1e-5)
    assert np.abs(np.linalg.norm(probes.vectors, axis=1) - 1).max() < 1e-5
