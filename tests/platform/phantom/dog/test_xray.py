"""X-rays through solids: every closed form against a slow one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.phantom.dog.anatomy import aligned, turned
from vetdino.platform.phantom.dog.xray import (
    BITS,
    Cut,
    Ellipsoid,
    Film,
    Meet,
    Rays,
    Rod,
    Solid,
    chords_of,
    draw_film,
    expose,
    field_of,
    lead,
    project,
    visible,
)

STEP = 0.004
"""cm between two samples of a slow ray."""


def rays(seed=0, shape=(14, 12), pixel=0.37) -> Rays:
    random = np.random.default_rng(seed)
    frame = turned(*random.uniform(-180, 180, 3))
    return Rays(frame, random.normal(0, 0.3, 3), shape, pixel)


def ball(random) -> Ellipsoid:
    axes = tuple(random.uniform(0.3, 2.2, 3).tolist())
    return Ellipsoid(random.normal(0, 0.7, 3), axes, turned(*random.uniform(-180, 180, 3)))


def rod(random, flat=False) -> Rod:
    return Rod(random.normal(0, 1.2, 3), random.normal(0, 1.2, 3), float(random.uniform(0.2, 1.2)), flat)


def cut(random) -> Cut:
    normal = aligned(random.normal(size=3))[:, 2]
    return Cut(ball(random), ((normal, float(random.normal(0, 0.4))), (-normal, 0.9)))


def holds(part, points) -> np.ndarray:
    """Whether points (..., 3) lie in a primitive, by its definition."""
    if isinstance(part, Meet):
        return holds(part.one, points) & holds(part.other, points)
    if isinstance(part, Cut):
        return np.logical_and.reduce([holds(part.base, points), *(points @ n <= d for n, d in part.planes)])
    if isinstance(part, Ellipsoid):
        return (((points - part.centre) @ part.turn / np.array(part.axes)) ** 2).sum(-1) <= 1
    axis = part.end - part.start
    share = (points - part.start) @ axis / (axis @ axis)
    nearest = part.start + np.clip(share, 0, 1)[..., None] * axis
    near = ((points - nearest) ** 2).sum(-1) <= part.radius**2
    return near & (share >= 0) & (share <= 1) if part.flat else near


def samples(beam: Rays) -> np.ndarray:
    """(rows, columns, N, 3) points along every ray, STEP apart."""
    depth = np.arange(-7, 7, STEP)
    across = beam.u[None, :, None, None] * beam.frame[0] + beam.v[:, None, None, None] * beam.frame[1]
    return beam.centre + across + depth[:, None] * beam.frame[2]


def spread(chord, beam: Rays) -> np.ndarray:
    """A chord's length over the whole picture."""
    whole = np.zeros(beam.shape)
    if chord is not None:
        whole[chord.box.slices] = chord.length()
    return whole


PARTS = {
    "ellipsoid": ball,
    "rod": rod,
    "flat rod": lambda random: rod(random, flat=True),
    "cut": cut,
    "meet": lambda random: Meet(ball(random), ball(random)),
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
    for part, chord in zip(parts, chords_of(parts, beam), strict=True):
        np.testing.assert_allclose(spread(chord, beam), spread(part.chord(beam), beam), atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 4))
def test_what_displaces_is_taken_away_once_however_it_overlaps(seed, count):
    random, beam = np.random.default_rng(seed), rays(seed, (7, 6), 0.6)
    part, others = ball(random), [PARTS["rod"](random) for _ in range(count)]
    chord = part.chord(beam)
    if chord is None:
        return
    points = samples(beam)
    slow = holds(part, points) & ~np.any([holds(other, points) for other in others] or [False], axis=0)
    found = np.zeros(beam.shape)
    found[chord.box.slices] = visible(chord, [c for other in others if (c := other.chord(beam))])
    np.testing.assert_allclose(found, slow.sum(-1) * STEP, atol=8 * STEP)


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
    beam = Rays(turned(20, 30, 40), np.zeros(3), (200, 200), 0.03)
    outer = Ellipsoid(np.zeros(3), (2.0, 1.5, 2.5), turned(10, 50, 5))
    inner = Ellipsoid(np.array([0.2, 0.1, 0]), (0.8, 0.6, 0.7), np.eye(3))
    volume = lambda axes: 4 / 3 * math.pi * math.prod(axes)
    alone = project([Solid("fat", 1.0, 0.0, (outer, outer))], beam).path.sum() * beam.pixel**2
    assert alone == pytest.approx(volume(outer.axes), rel=2e-3)
    shell = [Solid("fat", 1.0, 0.0, (outer,), ("gas",)), Solid("gas", 0.0, 0.0, (inner,))]
    hollow = project(shell, beam).path.sum() * beam.pixel**2
    assert hollow == pytest.approx(volume(outer.axes) - volume(inner.axes), rel=2e-3)


def test_points_of_the_truth_lie_on_their_own_ray_and_in_their_organ():
    beam = rays(4, (40, 40), 0.12)
    stone = Ellipsoid(np.array([0.3, -0.2, 0.4]), (0.9, 0.7, 1.1), turned(3, 2, 1))
    shot = project([Solid("stone", 1.0, 0.0, (stone,))], beam)
    inside = shot.masks["stone"]
    points = beam.animal(shot.depth)
    assert np.isnan(points[~inside]).all()
    assert holds(stone, points[inside]).all()
    seen = beam.seen(points[inside].astype(float))
    v, u = np.nonzero(inside)
    np.testing.assert_allclose(seen[:, 0], beam.u[u], atol=1e-4)
    np.testing.assert_allclose(seen[:, 1], beam.v[v], atol=1e-4)


def test_two_projections_of_one_body_meet_in_the_same_points():
    stone = Ellipsoid(np.array([1.0, -0.5, 0.7]), (0.6, 0.5, 0.7), np.eye(3))
    solids = [Solid("stone", 1.0, 0.0, (stone,))]
    beams = [rays(seed, (80, 80), 0.08) for seed in (1, 2)]
    (one, two), centres = (project(solids, beam) for beam in beams), []
    for beam, shot in zip(beams, (one, two), strict=True):
        centres.append(beam.animal(shot.depth)[shot.masks["stone"]].mean(0))
    np.testing.assert_allclose(centres[0], centres[1], atol=0.02)
    np.testing.assert_allclose(centres[0], stone.centre, atol=0.02)


def body_path(side=96) -> np.ndarray:
    beam = Rays(np.eye(3), np.zeros(3), (side, side), 20 / side)
    trunk = Ellipsoid(np.zeros(3), (5.0, 7.0, 6.0), np.eye(3))
    lung = Ellipsoid(np.array([0, -2.0, 0]), (3.0, 2.0, 4.0), np.eye(3))
    return project([Solid("body", 0.25, 0.0, (trunk,)), Solid("lung", 0.07, 0.25, (lung,))], beam).path


def test_an_exposed_film_is_twelve_bits_with_air_dark_and_lung_darker_than_flesh():
    picture = expose(body_path(), Film(), np.random.default_rng(0))
    assert picture.dtype == np.uint16
    assert picture.max() < 2**BITS
    assert picture[2, 2] < picture[38, 48] < picture[66, 48]


def test_the_same_film_and_the_same_chance_give_the_same_picture():
    one, two, three = (expose(body_path(), Film(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != three).any()


def test_more_photons_make_less_noise():
    def grain(photons):
        film = Film(photons=photons, sharp=0.01)
        pair = [expose(body_path(), film, np.random.default_rng(seed)).astype(float) for seed in (1, 2)]
        return np.std(np.diff(pair[0] - pair[1], axis=0)[40:50, 40:50])

    assert grain(100) > 2 * grain(10_000)


def test_the_blades_leave_a_field_and_the_marker_lies_in_it():
    random = np.random.default_rng(3)
    for _ in range(40):
        film = draw_film(random, (0.2, 0.2, 0.2, 0.2), "R", right=False)
        thick, opened = lead(film, (128, 100)) > 0, field_of(replace(film, twist=0.0), (128, 100))
        assert (opened[thick] > 0.5).mean() > 0.8
        assert np.nonzero(thick)[1].mean() < 50


def test_a_shutter_paints_the_border_black_and_without_it_the_border_stays_bright():
    film = Film(edges=(0.1, 0.0, 0.0, 0.0))
    bright = expose(body_path(), film, np.random.default_rng(0))
    black = expose(body_path(), replace(film, shutter=True), np.random.default_rng(0))
    assert bright[:7].mean() > 3500
    assert black[:7].max() == 0
