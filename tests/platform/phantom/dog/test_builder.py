"""Reference coordinates become real ones: scaled to the animal, bent with its spine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.platform.phantom.dog.dogs import DOG
from vetdino.platform.phantom.dog.animal import Disease, DogPose
from vetdino.platform.phantom.dog.builder import BodyBuilder
from vetdino.platform.phantom.rotations import rotation


def builder(pose: DogPose, **build) -> BodyBuilder:
    return BodyBuilder(replace(DOG, **build), Disease(seed=5), pose)


def test_a_point_scales_with_the_animal():
    straight = builder(DogPose("VD"), size=2.0, width=1.1, depth=0.9, length=1.2)
    np.testing.assert_allclose(straight.point(1, 2, 3), (2.2, 3.6, 7.2))


def test_a_bent_spine_moves_points_20_cm_away_by_the_bend_and_turns_with_the_slope():
    bent = builder(DogPose("VD", bend=(1.0, -0.5)))
    np.testing.assert_allclose(bent.point(0, 0, 20), (1.0, -0.5, 20))
    np.testing.assert_allclose(bent.point(0, 0, 0), 0)
    step = bent.point(0, 0, 10 + 1e-4) - bent.point(0, 0, 10 - 1e-4)
    np.testing.assert_allclose(bent.rotation_at(10)[:, 2], step / np.linalg.norm(step), atol=2e-3)


def test_an_ellipsoid_along_the_body_scales_with_its_build_and_a_turned_one_with_its_size():
    long = builder(DogPose("VD"), size=2.0, width=1.5)
    assert long.ellipsoid((0, 0, 0), (1, 1, 1)).axes == pytest.approx((3, 2, 2))
    assert long.ellipsoid((0, 0, 0), (1, 1, 1), more=0.5).axes == pytest.approx((3.5, 2.5, 2.5))
    turned = long.ellipsoid((0, 0, 0), (1, 1, 1), rotation(0, 0, 90))
    assert turned.axes == pytest.approx((2, 2, 2))
    np.testing.assert_allclose(turned.rotation, rotation(0, 0, 90))


def test_a_chain_joins_its_points_with_one_radius_or_one_each():
    made = builder(DogPose("VD"))
    points = [(0, 0, 0), (0, 0, 1), (0, 1, 1)]
    assert [rod.radius for rod in made.chain(points, 0.3)] == [0.3, 0.3]
    thin = made.chain(points, [0.3, 0.2])
    assert [rod.radius for rod in thin] == [0.3, 0.2]
    assert (thin[0].end == thin[1].start).all()


def test_a_solid_without_parts_is_not_added():
    made = builder(DogPose("VD"))
    made.add("gas", 0.0, 0.28, ())
    assert made.solids == []
    made.add("gas", 0.0, 0.28, made.chain([(0, 0, 0), (0, 0, 1)], 0.1))
    assert repr(made.solids[0]) == "Solid(gas, 1 parts, 0.000/cm)"


def test_random_numbers_depend_on_animal_and_disease_and_not_on_the_pose():
    one, two = builder(DogPose("VD")), builder(DogPose("RLAT", breath=1.0))
    assert one.random(3).uniform() == two.random(3).uniform() != one.random(4).uniform()
    assert one.disease_random(3).uniform() == two.disease_random(3).uniform() != one.random(3).uniform()
