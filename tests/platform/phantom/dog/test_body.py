"""The whole animal."""

from __future__ import annotations

import numpy as np
import pytest

from tests.platform.phantom.dog.dogs import DOG, shot
from vetdino.platform.phantom.config import FINDINGS
from vetdino.platform.phantom.dog.animal import GRAVITY, Disease, DogPose
from vetdino.platform.phantom.dog.body import build_body


def test_the_same_numbers_grow_the_same_animal():
    paths = [shot(Disease({"lung_mass": 0.5}, 3), "RLAT")[0].path for _ in range(2)]
    assert (paths[0] == paths[1]).all()


@pytest.mark.parametrize("position", GRAVITY)
def test_every_organ_is_there_and_the_path_is_never_negative(position):
    projection, _ = shot(position=position)
    soft = "body muscle lung heart liver stomach spleen kidneys gut colon bladder trachea gas"
    bones = "spine ribs cartilage sternum pelvis scapula humerus femur tibia forearm"
    assert not {*soft.split(), *bones.split()} - set(projection.masks)
    assert projection.path.min() > -1e-3
    assert 3 < projection.path.max() < 12


@pytest.mark.parametrize("position", ["VD", "RLAT"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_shows_in_both_projections(finding, position):
    for seed in range(3):
        well, ill = (shot(Disease(s, seed), position, side=320)[0].path for s in ({}, {finding: 0.3}))
        assert (np.abs(ill - well) > 0.08).sum() >= 12  # pixels of 2 mm, on a path of about 4


@pytest.mark.parametrize(
    ("finding", "organs"), [("rib_fracture", {"ribs"}), ("long_bone_fracture", {"femur", "humerus"})]
)
def test_a_fracture_moves_bone_on_one_side_and_nothing_else(finding, organs):
    well, ill = (build_body(DOG, Disease(s, 5), DogPose("VD")).solids for s in ({}, {finding: 0.6}))
    names = lambda solids: {s.organ for s in solids}
    assert names(well) == names(ill)
    changed = shot(Disease({finding: 0.6}, 5))[0].masks
    for organ, mask in shot()[0].masks.items():
        if organ not in organs:
            assert (changed[organ] == mask).all(), organ


def test_an_organ_seen_in_one_view_is_found_in_the_other_by_its_points():
    disease = Disease({"bladder_stones": 0.8}, 2)
    one, first = shot(disease, "VD")
    two, second = shot(disease, "VD", seen_from="LLAT")
    for organ in ("stones", "kidneys", "heart"):
        points = first.points_at(one.depth)[one.masks[organ]]
        u, v, _ = second.to_detector(points.astype(float)).T
        columns = np.rint(u / second.pixel + (second.shape[1] - 1) / 2).astype(int)
        rows = np.rint(v / second.pixel + (second.shape[0] - 1) / 2).astype(int)
        hits = two.masks[organ][rows, columns]
        # Where another organ is the densest of the ray, the point is that organ's.
        assert hits.mean() > (0.8 if organ == "stones" else 0.5)


def test_points_lie_in_the_animal_and_nan_is_outside_it():
    projection, beam = shot()
    points = beam.points_at(projection.depth)
    assert (np.isnan(points).any(-1) == ~projection.masks["body"]).mean() > 0.99
    assert np.nanmax(np.abs(points)) < 60
