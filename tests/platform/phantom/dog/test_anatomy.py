"""The animal: what stays, what moves with gravity, and what each finding changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.platform.phantom.dog.anatomy import (
    CARDINAL,
    DOWN,
    FINDINGS,
    Animal,
    Disease,
    Pose,
    aligned,
    draw_animal,
    draw_pose,
    grow,
    turned,
)
from vetdino.platform.phantom.dog.archive import FRAMES
from vetdino.platform.phantom.dog.xray import Ellipsoid, Projection, Rays, project

DOG = Animal(
    size=1.0, width=1.0, depth=1.0, length=1.0, limb=1.0, fat=0.6, age=0.4, male=True, cat=False, seed=8
)


def shot(disease=None, position="VD", pose=None, seen_from=None, side=160) -> tuple[Projection, Rays]:
    body = grow(DOG, disease or Disease(), pose or Pose(position))
    frame = np.array(FRAMES[seen_from or position], float)
    beam = Rays(frame, np.array([0, -6.0, -3.0]), (side, side), 64 / side)
    return project(body.solids, beam), beam


def area(projection: Projection, organ: str) -> int:
    return int(projection.masks[organ].sum()) if organ in projection.masks else 0


def test_the_same_numbers_grow_the_same_animal():
    paths = [shot(Disease({"lung_mass": 0.5}, 3), "RLAT")[0].path for _ in range(2)]
    assert (paths[0] == paths[1]).all()


def test_rotations_keep_lengths_and_an_aligned_axis_points_where_asked():
    assert np.allclose(turned(10, 20, 30) @ turned(10, 20, 30).T, np.eye(3))
    for direction in ((0, 0, 1), (1, 0, 0), (-0.3, 0.4, 2)):
        matrix = aligned(direction)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        np.testing.assert_allclose(matrix[:, 2], np.array(direction) / np.linalg.norm(direction))


@pytest.mark.parametrize("position", DOWN)
def test_every_organ_is_there_and_the_path_is_never_negative(position):
    projection, _ = shot(position=position)
    soft = "body muscle lung heart liver stomach spleen kidneys gut colon bladder trachea gas"
    bones = "spine ribs cartilage sternum pelvis scapula humerus femur tibia forearm"
    assert not {*soft.split(), *bones.split()} - set(projection.masks)
    assert projection.path.min() > -1e-3
    assert 3 < projection.path.max() < 12


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
    well, ill = (grow(DOG, Disease(s, 5), Pose("VD")).solids for s in ({}, {finding: 0.6}))
    names = lambda solids: {s.organ for s in solids}
    assert names(well) == names(ill)
    changed = shot(Disease({finding: 0.6}, 5))[0].masks
    for organ, mask in shot()[0].masks.items():
        if organ not in organs:
            assert (changed[organ] == mask).all(), organ


def test_every_cardinal_bone_breaks_for_some_disease_and_side():
    from vetdino.platform.phantom.dog.anatomy import Growth, _broken_bone

    seen = {
        _broken_bone(Growth(DOG, Disease({"long_bone_fracture": 1.0}, seed), Pose("VD")))
        for seed in range(40)
    }
    assert seen == set(CARDINAL)


def test_gas_rises_and_stones_sink():
    disease = Disease({"bladder_stones": 0.5, "gastric_dilatation": 0.2}, 2)
    for position, down in DOWN.items():
        body = grow(DOG, disease, Pose(position))
        bladder = body.named("bladder")[0].parts[0].centre
        stones = np.mean([part.centre for part in body.named("stones")[0].parts], axis=0)
        assert (stones - bladder) @ down > 0.5
        gas = next(solid for solid in body.solids if solid.name == "stomach gas")
        for part in gas.parts:
            ((normal, level),) = part.planes
            assert (normal == down).all()
            assert level < max(part.base.centre @ down for part in gas.parts) + 5


def test_fluid_lies_low_so_a_vd_differs_from_a_dv():
    disease = Disease({"pleural_effusion": 0.7}, 1)
    heights = {}
    for position in ("VD", "DV"):
        lungs = [solid for solid in grow(DOG, disease, Pose(position)).solids if solid.organ == "lung"]
        heights[position] = np.mean([solid.parts[0].base.centre[1] for solid in lungs])
    assert heights["VD"] < heights["DV"]  # on its back the lungs float towards the sternum


def test_the_heart_falls_to_the_side_that_lies_down():
    left, right = (
        grow(DOG, Disease(), Pose(side)).named("heart")[0].parts[0].centre[0] for side in ("LLAT", "RLAT")
    )
    assert left > right + 0.5


def test_an_organ_seen_in_one_view_is_found_in_the_other_by_its_points():
    disease = Disease({"bladder_stones": 0.8}, 2)
    one, first = shot(disease, "VD")
    two, second = shot(disease, "VD", seen_from="LLAT")
    for organ in ("stones", "kidneys", "heart"):
        points = first.animal(one.depth)[one.masks[organ]]
        u, v, _ = second.seen(points.astype(float)).T
        columns = np.rint(u / second.pixel + (second.shape[1] - 1) / 2).astype(int)
        rows = np.rint(v / second.pixel + (second.shape[0] - 1) / 2).astype(int)
        found = two.masks[organ][rows, columns]
        # Where another organ is the densest of the ray, the point is that organ's.
        assert found.mean() > (0.8 if organ == "stones" else 0.5)


def test_points_lie_in_the_animal_and_nan_is_outside_it():
    projection, beam = shot()
    points = beam.animal(projection.depth)
    assert (np.isnan(points).any(-1) == ~projection.masks["body"]).mean() > 0.99
    assert np.nanmax(np.abs(points)) < 60


def test_breeds_differ_and_stay_within_bounds():
    animals = [draw_animal(np.random.default_rng(seed)) for seed in range(200)]
    weights = [15 * animal.size**3 for animal in animals]
    assert 3 <= min(weights) < 5
    assert 35 < max(weights) <= 50.01
    assert {animal.cat for animal in animals} == {True, False}
    assert all(15 * animal.size**3 <= 7.01 for animal in animals if animal.cat)


def test_two_poses_of_one_animal_differ():
    random = np.random.default_rng(0)
    one, two = (draw_pose(random, "VD") for _ in range(2))
    assert replace(one, turn=two.turn) != two


def test_two_in_three_broken_long_bones_carry_a_steel_plate_and_no_other_study_does():
    ill = [grow(DOG, Disease({"long_bone_fracture": 0.5}, seed), Pose("VD")) for seed in range(60)]
    plated = sum(bool(body.named("implant")) for body in ill)
    assert 30 <= plated <= 50
    assert not grow(DOG, Disease({"rib_fracture": 1.0}, 1), Pose("VD")).named("implant")


def test_masses_and_broken_ribs_come_in_numbers():
    for seed in range(20):
        body = grow(DOG, Disease({"lung_mass": 1.0, "rib_fracture": 1.0}, seed), Pose("VD"))
        (mass,) = body.named("mass")
        assert 2 <= len(mass.parts) / 2 <= 6
        calluses = [solid for solid in body.named("ribs") if isinstance(solid.parts[0], Ellipsoid)]
        assert 3 <= len(calluses) <= 7
