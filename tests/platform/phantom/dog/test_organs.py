"""Soft organs: gravity, and what each disease changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.platform.phantom.dog.dogs import DOG, area, shot
from tests.platform.phantom.dog.sampling import holds
from vetdino.platform.phantom.dog.animal import GRAVITY, Disease, DogPose
from vetdino.platform.phantom.dog.body import build_body
from vetdino.platform.phantom.dog.organs import _packed_walk


@pytest.mark.parametrize("position", ["VD", "RLAT"])
@pytest.mark.parametrize(
    ("finding", "organ"),
    [
        ("cardiomegaly", "heart"),
        ("lung_mass", "mass"),
        ("hepatomegaly", "liver"),
        ("gastric_dilatation", "stomach"),
        ("bladder_stones", "stones"),
    ],
)
def test_a_finding_enlarges_its_organ_and_more_when_it_is_worse(finding, organ, position):
    sizes = [area(shot(Disease({finding: severity}, 4), position)[0], organ) for severity in (0, 0.2, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_more_effusion_leaves_less_air():
    paths = [shot(Disease({"pleural_effusion": severity}, 4))[0].path.sum() for severity in (0, 0.2, 1.0)]
    assert paths[0] < paths[1] < paths[2]


def test_gas_rises_and_stones_sink():
    disease = Disease({"bladder_stones": 0.5, "gastric_dilatation": 0.2}, 2)
    for position, down in GRAVITY.items():
        body = build_body(DOG, disease, DogPose(position))
        bladder = body.organ("bladder")[0].parts[0].center
        stones = np.mean([part.center for part in body.organ("stones")[0].parts], axis=0)
        assert (stones - bladder) @ down > 0.5
        gas = next(solid for solid in body.solids if solid.name == "stomach gas")
        for part in gas.parts:
            ((normal, level),) = part.planes
            assert (normal == down).all()
            assert level < max(part.base.center @ down for part in gas.parts) + 5


def test_fluid_lies_low_so_a_vd_differs_from_a_dv():
    disease = Disease({"pleural_effusion": 0.7}, 1)
    heights = {}
    for position in ("VD", "DV"):
        lungs = [
            solid for solid in build_body(DOG, disease, DogPose(position)).solids if solid.organ == "lung"
        ]
        heights[position] = np.mean([solid.parts[0].base.center[1] for solid in lungs])
    assert heights["VD"] < heights["DV"]  # on its back the lungs float towards the sternum


def test_the_heart_falls_to_the_side_that_lies_down():
    left, right = (
        build_body(DOG, Disease(), DogPose(side)).organ("heart")[0].parts[0].center[0]
        for side in ("LLAT", "RLAT")
    )
    assert left > right + 0.5


def test_masses_come_in_numbers_clear_of_heart_and_diaphragm():
    for seed in range(20):
        body = build_body(DOG, Disease({"lung_mass": 1.0}, seed), DogPose("VD"))
        (mass,) = body.organ("mass")
        assert 2 <= len(mass.parts) / 2 <= 6
        heart = body.organ("heart")[0].parts[0]
        for part in mass.parts[::2]:
            assert not holds(heart, part.center)


def test_the_gut_stays_in_the_belly_and_keeps_a_step_of_its_length():
    middle, axes = np.array([0.0, -9, -11]), np.array([4.6, 4.0, 4.6])
    walk = np.array(_packed_walk(np.random.default_rng(0), middle, axes, steps=44))
    assert walk.shape == (45, 3)
    np.testing.assert_allclose(np.linalg.norm(np.diff(walk, axis=0), axis=1), 1.5)
    assert np.linalg.norm((walk - middle) / axes, axis=1).max() < 1.4


def test_stones_lie_within_the_bladder():
    body = build_body(DOG, Disease({"bladder_stones": 1.0}, 1), DogPose("RLAT"))
    bladder = body.organ("bladder")[0].parts[0]
    assert len(body.organ("stones")[0].parts) >= 2
    assert all(holds(bladder, stone.center) for stone in body.organ("stones")[0].parts)


def test_only_male_dogs_have_an_os_penis():
    kinds = {
        (male, cat): build_body(replace(DOG, male=male, cat=cat), Disease(), DogPose("VD"))
        for male in (True, False)
        for cat in (True, False)
    }
    assert {kind for kind, body in kinds.items() if body.organ("os penis")} == {(True, False)}
