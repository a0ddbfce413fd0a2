"""Chords of convex solids, each closed form against sampled rays."""

from __future__ import annotations

import numpy as np
import pytest

from tests.platform.phantom.dog.sampling import STEP, ball, cut, holds, rays, rod, samples, spread
from vetdino.platform.phantom.dog.solids import Ellipsoid, Intersection, Rays, Rod, Solid, part_chords
from vetdino.platform.phantom.dog.xray import project

PARTS = {
    "ellipsoid": ball,
    "rod": rod,
    "flat rod": lambda random: rod(random, flat=True),
    "cut": cut,
    "meet": lambda random: Intersection(ball(random), ball(random)),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_chord_is_as_long_as_a_sampled_ray_is_inside(kind):
    for seed in range(4):
        beam, part = rays(seed), PARTS[kind](np.random.default_rng(seed))
        slow = holds(part, samples(beam)).sum(-1) * STEP
        np.testing.assert_allclose(spread(part.chord(beam), beam), slow, atol=3 * STEP)


def test_a_rod_along_the_ray_is_a_disc_as_deep_as_it_is_long():
    beam = Rays(np.eye(3), np.zeros(3), (41, 41), 0.05)
    path = spread(Rod(np.array([0, 0, -2.0]), np.array([0, 0, 3.0]), 0.6, flat=True).chord(beam), beam)
    assert path[20, 20] == pytest.approx(5, abs=0.02)
    assert path[0, 0] == 0


def test_a_primitive_outside_the_picture_has_no_chord():
    far = Ellipsoid(np.array([50.0, 50, 50]), (1, 1, 1), np.eye(3))
    assert far.chord(rays()) is None
    assert project([Solid("stone", 1.0, 0.0, (far,))], rays()).path.max() == 0


def test_many_chords_at_once_are_those_of_one_at_a_time():
    random, beam = np.random.default_rng(5), rays(3, (60, 50), 0.1)
    parts = [make(random) for make in PARTS.values() for _ in range(8)]
    for part, chord in zip(parts, part_chords(parts, beam), strict=True):
        np.testing.assert_allclose(spread(chord, beam), spread(part.chord(beam), beam), atol=1e-4)


def test_thicker_adds_to_radius_or_half_axes():
    assert Rod(np.zeros(3), np.ones(3), 0.5, flat=True).thicker(0.2).radius == pytest.approx(0.7)
    thick = Ellipsoid(np.zeros(3), (1, 2, 3), np.eye(3)).thicker(-0.2)
    assert thick.axes == pytest.approx((0.8, 1.8, 2.8))
