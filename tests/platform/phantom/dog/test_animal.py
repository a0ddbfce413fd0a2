"""Animals and poses: as different as breeds and positionings are, and within bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vetdino.platform.phantom.dog.animal import Disease, draw_animal, draw_pose


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
    assert replace(one, rotation=two.rotation) != two


def test_a_lateral_animal_bends_up_and_down_and_an_upright_one_sideways():
    def spread(position: str) -> np.ndarray:
        return np.std([draw_pose(np.random.default_rng(seed), position).bend for seed in range(200)], axis=0)

    upright, lateral = spread("VD"), spread("RLAT")
    assert upright[0] > 2 * upright[1]
    assert lateral[1] > lateral[0]


def test_a_finding_that_was_not_drawn_has_severity_0():
    disease = Disease({"lung_mass": 0.4})
    assert (disease.get("lung_mass"), disease.get("rib_fracture")) == (0.4, 0.0)
