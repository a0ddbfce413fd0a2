"""Signed fields of smooth shapes against exact distances."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.fields import (
    ellipsoid,
    intersection,
    smooth_noise,
    superellipse,
    tube,
    union,
)
from vetdino.platform.phantom.rotations import rotation


def test_the_field_of_a_ball_or_a_tube_is_the_distance_to_its_surface():
    random = np.random.default_rng(0)
    x, y, z = random.uniform(-20, 20, (3, 500)).astype(np.float32)
    ball = ellipsoid(x, y, z, (1, 2, 3), (5, 5, 5))
    assert ball == pytest.approx(np.sqrt((x - 1) ** 2 + (y - 2) ** 2 + (z - 3) ** 2) - 5, abs=1e-4)
    rod = tube(x, y, z, [(0, 0, -100, 4), (0, 0, 100, 4)])
    assert rod == pytest.approx(np.hypot(x, y) - 4, abs=1e-4)
    round_wall = superellipse(x, y, (7, 7), 2)
    assert round_wall == pytest.approx(np.hypot(x, y) - 7, abs=1e-4)


def test_smooth_noise_has_unit_variance_and_is_alike_nearby_alone():
    axes = tuple(np.arange(0, size, 2, dtype=np.float32) for size in (200, 160, 240))
    noise = smooth_noise(np.random.default_rng(0), axes, 10)
    assert noise.shape == (100, 80, 120)
    assert noise.std() == pytest.approx(1, abs=0.1)
    near, far = (np.mean(noise[:-lag] * noise[lag:]) for lag in (1, 30))
    assert near > 0.9
    assert abs(far) < 0.1


X, Y, Z = np.float32(np.random.default_rng(3).uniform(-20, 20, (3, 800)))


def test_fields_are_negative_inside_and_zero_on_the_surface():
    radii, center = np.array([8.0, 5.0, 3.0]), np.array([1.0, -2.0, 0.5])
    turn = rotation(20, 30, 40)
    local = (np.stack([X, Y, Z], 1) - center) @ turn
    inside = np.square(local / radii).sum(1) < 1
    assert ((ellipsoid(X, Y, Z, center, radii, turn) < 0) == inside).all()
    directions = np.random.default_rng(4).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    surface = np.float32(center + (directions * radii) @ turn.T)
    np.testing.assert_allclose(ellipsoid(*surface.T, center, radii, turn), 0, atol=1e-3)


def test_a_field_is_close_to_the_distance_near_an_ellipsoids_surface():
    radii = (8.0, 6.0, 5.0)
    for axis, radius in enumerate(radii):
        point = np.zeros(3, np.float32)
        point[axis] = radius + 0.5
        assert ellipsoid(*point, (0, 0, 0), radii) == pytest.approx(0.5, abs=0.05)


def test_smooth_union_and_intersection_are_min_and_max_away_from_the_seam():
    a, b = X, Y
    either, both = union(a, b, 4), intersection(a, b, 4)
    far = np.abs(a - b) >= 4
    np.testing.assert_array_equal(either[far], np.minimum(a, b)[far])
    np.testing.assert_array_equal(both[far], np.maximum(a, b)[far])
    assert (either <= np.minimum(a, b)).all()
    assert (both >= np.maximum(a, b)).all()
    assert union(np.float32(2), np.float32(2), 4) == 1  # a quarter of `soft` at the seam
    np.testing.assert_allclose(both, -union(-a, -b, 4), atol=1e-5)


def test_a_tube_narrows_from_point_to_point_and_its_bends_are_joined():
    field = tube(
        np.float32([0, 0, 0]), np.float32([0, 0, 0]), np.float32([0, 50, 100]), [(0, 0, 0, 6), (0, 0, 100, 2)]
    )
    np.testing.assert_allclose(field, [-6, -4, -2], atol=1e-5)
    bent = tube(X, Y, Z, [(0, 0, 0, 3), (10, 0, 0, 3), (10, 10, 0, 3)], soft=2)
    parts = [tube(X, Y, Z, [(0, 0, 0, 3), (10, 0, 0, 3)]), tube(X, Y, Z, [(10, 0, 0, 3), (10, 10, 0, 3)])]
    np.testing.assert_allclose(bent, union(*parts, 2), atol=1e-5)


def test_a_superellipse_of_high_power_is_nearly_a_rectangle():
    corner = superellipse(np.float32(6.7), np.float32(4.8), (7, 5), 20)
    assert corner < 0  # a circle of power 2 would leave it outside
    assert superellipse(np.float32(6.7), np.float32(4.8), (7, 5), 2) > 0
    assert superellipse(np.float32(7), np.float32(0), (7, 5), 3) == pytest.approx(0, abs=1e-5)
