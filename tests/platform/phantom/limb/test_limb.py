"""Limbs: bones, fasciae, and what a subject's limbs share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vetdino.platform.phantom.limb.limb import HEAD_DEPTH, ROUNDING, Bone, Wave, draw_limb


@pytest.mark.parametrize("radius", [5.0, 7.4, 12.0, 20.0])
def test_a_bones_head_is_whole_where_it_is_small_and_ends_below_where_it_is_large(radius):
    bone = Bone(0.0, 10.0, radius, (), (0.0, 0.0, 0.0))
    x, y = np.meshgrid(np.linspace(-25, 25, 501, dtype=np.float32), np.linspace(0, 60, 601, dtype=np.float32))
    head, whole = bone.head(x, y, 0.0) < 0, bone.level(x, y, 0.0) < 0
    assert not (head & ~whole).any()
    rows = y[head.any(1), 0]
    assert rows[0] == pytest.approx(10, abs=0.3)
    assert rows[-1] == pytest.approx(10 + min(2 * radius, HEAD_DEPTH), abs=ROUNDING)
    assert (head == whole).all() == (2 * radius <= HEAD_DEPTH)


def test_a_wave_is_the_sum_of_its_sines():
    wave = Wave(((1.0, 0.1, 0.02, 0.5), (0.3, 0.5, -0.1, 1.0)))
    x = np.linspace(-20, 20, 9, dtype=np.float32)
    slow = [sum(a * math.sin(k * float(p) + m * 3.0 + phase) for a, k, m, phase in wave.terms) for p in x]
    np.testing.assert_allclose(wave.at(x, 3.0), slow, atol=1e-5)
    assert wave.at(x, 3.0).dtype == np.float32


def test_a_round_bones_level_is_the_distance_to_its_surface_and_drifts_along_the_limb():
    bone = Bone(2.0, 12.0, 8.0, (), (0.1, 0.2, 0.0))
    x, y = np.meshgrid(np.linspace(-25, 25, 51, dtype=np.float32), np.linspace(0, 50, 51, dtype=np.float32))
    np.testing.assert_allclose(bone.level(x, y, 0.0), np.hypot(x - 2, y - 20) - 8, atol=1e-4)
    np.testing.assert_allclose(bone.level(x, y, 10.0), np.hypot(x - 3, y - 22) - 8, atol=1e-4)


def test_a_lobe_moves_the_surface_out_where_its_cosine_is_1():
    bone = Bone(0.0, 10.0, 10.0, ((2, 0.1, 0.0),), (0.0, 0.0, 0.0))
    at = lambda x, y: float(bone.level(np.float32([x]), np.float32([y]), 0.0)[0])
    assert at(11.0, 20.0) == pytest.approx(0, abs=1e-4)  # the sides bulge
    assert at(0.0, 11.0) == pytest.approx(0, abs=1e-4)  # top and bottom are flat


def test_a_limb_has_skin_fat_and_muscles_in_this_order_above_its_bones():
    for seed in range(30):
        for part, bones in (("arm", 1), ("leg", 2)):
            limb = draw_limb(part, np.random.default_rng(seed), np.random.default_rng(seed + 100))
            assert len(limb.bones) == bones
            assert 0 < limb.skin < limb.layers[0] < limb.layers[1] < min(bone.top for bone in limb.bones)
            assert list(limb.layers) == sorted(limb.layers)
            assert len(limb.waves) == len(limb.layers) == len(limb.brightness) - 1
