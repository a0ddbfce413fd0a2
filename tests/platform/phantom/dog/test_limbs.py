"""Limbs: lengths and angles of long bones, and what a fracture does to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.platform.phantom.dog.dogs import DOG
from vetdino.platform.phantom.dog.animal import Disease, DogPose
from vetdino.platform.phantom.dog.body import build_body
from vetdino.platform.phantom.dog.builder import CORTEX, MARROW, BodyBuilder
from vetdino.platform.phantom.dog.limbs import BREAKABLE, _broken_bone, _fragments, _limb_direction


def test_every_breakable_bone_breaks_for_some_disease():
    broken = {
        _broken_bone(BodyBuilder(DOG, Disease({"long_bone_fracture": 1.0}, seed), DogPose("VD")))
        for seed in range(40)
    }
    assert broken == set(BREAKABLE)


@pytest.mark.slow
def test_two_in_three_broken_long_bones_carry_a_steel_plate_and_no_other_study_does():
    ill = [build_body(DOG, Disease({"long_bone_fracture": 0.5}, seed), DogPose("VD")) for seed in range(60)]
    plated = sum(bool(body.organ("implant")) for body in ill)
    assert 30 <= plated <= 50
    assert not build_body(DOG, Disease({"rib_fracture": 1.0}, 1), DogPose("VD")).organ("implant")


def test_a_limb_direction_is_a_unit_vector_ventral_at_zero_cranial_at_90_and_outward_on_its_side():
    np.testing.assert_allclose(_limb_direction(0, 0, 1), (0, -1, 0), atol=1e-12)
    np.testing.assert_allclose(_limb_direction(90, 0, -1), (0, 0, 1), atol=1e-12)
    for side in (1, -1):
        direction = _limb_direction(20, 30, side)
        assert np.linalg.norm(direction) == pytest.approx(1)
        assert direction[0] == pytest.approx(side * 0.5)


def test_long_bones_are_as_long_as_their_animal_makes_them():
    for limb in (0.6, 1.0, 1.3):
        body = build_body(replace(DOG, limb=limb), Disease(), DogPose("RLAT"))
        for organ, length in (("humerus", 9.5), ("femur", 11), ("tibia", 11.5)):
            cortex = next(s.parts[0] for s in body.organ(organ) if s.mu == CORTEX)
            assert np.linalg.norm(cortex.end - cortex.start) == pytest.approx(length * limb)


def test_fragments_keep_the_bones_start_and_length_and_separate_more_with_severity():
    start, end = np.zeros(3), np.array([0.0, 0, 10])
    gaps = []
    for severity in (0.2, 1.0):
        builder = BodyBuilder(DOG, Disease({"long_bone_fracture": severity}, 3), DogPose("VD"))
        (first, middle), (other, _) = _fragments(builder, start, end, 0.6)
        assert (first == start).all()
        assert 4 <= middle[2] <= 6.2
        gaps.append(np.linalg.norm((other - middle)[:2]))
    assert gaps[0] < gaps[1]


def test_marrow_lies_inside_its_cortex():
    for organ in ("humerus", "femur", "tibia", "forearm"):
        solids = build_body(DOG, Disease(), DogPose("DV")).organ(organ)
        cortex, marrow = ([s.parts[0] for s in solids if s.mu == mu] for mu in (CORTEX, MARROW))
        assert len(cortex) == len(marrow) == 2
        for outer, inner in zip(cortex, marrow, strict=True):
            assert (outer.start == inner.start).all()
            assert 0.6 < inner.radius / outer.radius < 0.75
