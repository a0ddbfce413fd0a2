"""Bones of the trunk: spine, ribs and pelvis in their places, and what a rib fracture changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.platform.phantom.dog.dogs import DOG
from vetdino.platform.phantom.dog.animal import Disease, DogPose
from vetdino.platform.phantom.dog.body import build_body
from vetdino.platform.phantom.dog.bones import _broken_rib, _broken_ribs, _rib_line, _spine_height, _vertebrae
from vetdino.platform.phantom.dog.builder import BodyBuilder
from vetdino.platform.phantom.dog.solids import Ellipsoid


def test_broken_ribs_are_three_to_seven_neighbors_of_one_side_each_with_a_callus():
    for seed in range(20):
        disease = Disease({"rib_fracture": 1.0}, seed)
        broken = _broken_ribs(BodyBuilder(DOG, disease, DogPose("VD")))
        sides, ribs = {side for side, _ in broken}, sorted(rib for _, rib in broken if rib <= 13)
        assert len(sides) == 1
        assert ribs == list(range(ribs[0], ribs[0] + len(ribs)))
        assert 3 <= len(ribs) <= 7
        solids = build_body(DOG, disease, DogPose("VD")).organ("ribs")
        assert sum(isinstance(solid.parts[0], Ellipsoid) for solid in solids) == len(ribs)


def test_a_broken_rib_is_displaced_at_the_break_and_ends_almost_where_it_did():
    bone = BodyBuilder(DOG, Disease(), DogPose("VD")).chain(_rib_line(6, 1)[:7], 0.27)
    shift = np.array([-0.8, 0.1, 0.9])
    near, far = _broken_rib(bone, 2, shift)[2:4]
    gap = (bone[2].end - bone[2].start) * 0.15
    np.testing.assert_allclose(far.start - near.end, gap + shift)
    assert (near.flat, far.flat) == (True, True)
    moved = [
        np.linalg.norm(a.end - b.end) for a, b in zip(_broken_rib(bone, 2, shift)[3:], bone[2:], strict=True)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.3 * np.linalg.norm(shift)


def test_the_spine_has_27_bodies_that_follow_one_another_and_six_of_the_tail():
    regions = [region for region, _, _ in _vertebrae()]
    assert {name: regions.count(name) for name in dict.fromkeys(regions)} == {
        "C": 5,
        "T": 13,
        "L": 7,
        "Cd": 6,
    }
    places = [z for _, z, _ in _vertebrae()]
    assert places == sorted(places, reverse=True)
    for z in (-18.0, 18.0):  # neck, trunk and tail join
        assert _spine_height(z - 1e-6) == pytest.approx(_spine_height(z + 1e-6), abs=0.5)


def test_a_rib_runs_from_the_spine_round_the_chest_and_is_mirrored_on_the_other_side():
    for rib in (1, 5, 9, 13):
        left, right = np.array(_rib_line(rib, 1)), np.array(_rib_line(rib, -1))
        np.testing.assert_allclose(left, right * (-1, 1, 1))
        assert left[0, 1] == left[:, 1].max()  # its head is the highest point
    assert abs(_rib_line(5, 1)[-1][0]) < 2.5  # a true rib ends near the sternum
    assert abs(_rib_line(13, 1)[-1][0]) > 4  # a floating one does not


def test_old_animals_have_spurs_and_less_dense_bone():
    young, old = (
        build_body(replace(DOG, age=age), Disease(), DogPose("VD")).organ("spine") for age in (0.0, 1.0)
    )
    assert len(old) > len(young)
    assert max(solid.mu for solid in old) < max(solid.mu for solid in young)
