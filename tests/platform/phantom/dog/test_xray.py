"""Beer-Lambert through overlapping solids against sampled rays, and the truth beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.platform.phantom.dog.sampling import STEP, ball, holds, rays, rod, samples
from vetdino.platform.phantom.dog.solids import Ellipsoid, Rays, Solid
from vetdino.platform.phantom.dog.xray import project, visible_length
from vetdino.platform.phantom.rotations import rotation


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 4))
def test_what_displaces_is_taken_away_once_however_it_overlaps(seed, count):
    random, beam = np.random.default_rng(seed), rays(seed, (7, 6), 0.6)
    part, others = ball(random), [rod(random) for _ in range(count)]
    chord = part.chord(beam)
    if chord is None:
        return
    points = samples(beam)
    slow = holds(part, points) & ~np.any([holds(other, points) for other in others] or [False], axis=0)
    visible = np.zeros(beam.shape)
    visible[chord.box.slices] = visible_length(chord, [c for other in others if (c := other.chord(beam))])
    np.testing.assert_allclose(visible, slow.sum(-1) * STEP, atol=8 * STEP)


def test_the_path_is_beer_lamberts_sum_over_a_sampled_ray():
    random, beam = np.random.default_rng(2), rays(7)
    lung, heart, one, two = ball(random), ball(random), rod(random), rod(random)
    solids = [
        Solid("lung", 0.07, 0.0, (lung,), ("heart", "vessels")),
        Solid("heart", 0.28, 0.0, (heart,), ("vessels",)),
        Solid("vessels", 0.5, 0.0, (one, two)),
    ]
    points = samples(beam)
    vessels = holds(one, points) | holds(two, points)
    mu = np.where(vessels, 0.5, np.where(holds(heart, points), 0.28, 0.07 * holds(lung, points)))
    np.testing.assert_allclose(project(solids, beam).path, mu.sum(-1) * STEP, atol=0.02)


def test_the_shadow_weighs_what_the_body_weighs_and_nothing_counts_twice():
    beam = Rays(rotation(20, 30, 40), np.zeros(3), (200, 200), 0.03)
    outer = Ellipsoid(np.zeros(3), (2.0, 1.5, 2.5), rotation(10, 50, 5))
    inner = Ellipsoid(np.array([0.2, 0.1, 0]), (0.8, 0.6, 0.7), np.eye(3))
    volume = lambda axes: 4 / 3 * math.pi * math.prod(axes)
    alone = project([Solid("fat", 1.0, 0.0, (outer, outer))], beam).path.sum() * beam.pixel**2
    assert alone == pytest.approx(volume(outer.axes), rel=2e-3)
    shell = [Solid("fat", 1.0, 0.0, (outer,), ("gas",)), Solid("gas", 0.0, 0.0, (inner,))]
    hollow = project(shell, beam).path.sum() * beam.pixel**2
    assert hollow == pytest.approx(volume(outer.axes) - volume(inner.axes), rel=2e-3)


def test_points_of_the_truth_lie_on_their_own_ray_and_in_their_organ():
    beam = rays(4, (40, 40), 0.12)
    stone = Ellipsoid(np.array([0.3, -0.2, 0.4]), (0.9, 0.7, 1.1), rotation(3, 2, 1))
    shot = project([Solid("stone", 1.0, 0.0, (stone,))], beam)
    inside = shot.masks["stone"]
    points = beam.points_at(shot.depth)
    assert np.isnan(points[~inside]).all()
    assert holds(stone, points[inside]).all()
    seen = beam.to_detector(points[inside].astype(float))
    v, u = np.nonzero(inside)
    np.testing.assert_allclose(seen[:, 0], beam.u[u], atol=1e-4)
    np.testing.assert_allclose(seen[:, 1], beam.v[v], atol=1e-4)


def test_two_projections_of_one_body_meet_in_the_same_points():
    stone = Ellipsoid(np.array([1.0, -0.5, 0.7]), (0.6, 0.5, 0.7), np.eye(3))
    solids = [Solid("stone", 1.0, 0.0, (stone,))]
    beams = [rays(seed, (80, 80), 0.08) for seed in (1, 2)]
    (one, two), centers = (project(solids, beam) for beam in beams), []
    for beam, shot in zip(beams, (one, two), strict=True):
        centers.append(beam.points_at(shot.depth)[shot.masks["stone"]].mean(0))
    np.testing.assert_allclose(centers[0], centers[1], atol=0.02)
    np.testing.assert_allclose(centers[0], stone.center, atol=0.02)
