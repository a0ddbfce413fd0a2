"""A section of a limb: gel, skin, fat, muscle, blood and bone, each where it belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.platform.phantom.limb.limb import Limb, draw_limb
from vetdino.platform.phantom.limb.section import EDGE, _arch, bone_head_mask, cut_section


@pytest.fixture(scope="module")
def limb() -> Limb:
    made = draw_limb("leg", np.random.default_rng(0), np.random.default_rng(1))
    return replace(made, vessels=((-15.0, made.layers[0] + 4, 1.5),))


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(-24, 24, 0.2, dtype=np.float32), np.arange(-3, 45, 0.2, dtype=np.float32))
    return x, y


def test_gel_is_silent_skin_is_even_and_blood_is_dark(limb, points):
    x, y = points
    section = cut_section(limb, x, y, 0.0)
    assert (section.scatter[y < 0] == np.float32(0.003)).all()
    assert (section.scatter[(y >= 0) & (y < limb.skin)] == np.float32(1.3)).all()
    ((x0, deep, radius),) = limb.vessels
    blood = np.hypot((x - x0) / 1.3, y - deep) < radius - 0.01
    assert (section.scatter[blood] == np.float32(0.1)).all()
    assert section.scatter[y > limb.skin].min() >= np.float32(0.05)
    assert (section.attenuation[y <= 0] == 0).all()


def test_each_layer_scatters_with_its_own_brightness(limb, points):
    x, y = points
    quiet = replace(limb, vessels=(), brightness=(0.0,) * 5)
    loud = replace(quiet, brightness=(0.0, 20.0, 2.0, 4.0, 6.0))
    before, after = (cut_section(made, x, y, 0.0).scatter for made in (quiet, loud))
    folded = y + _arch(limb, x, y, 0.0)
    fasciae = [deep + wave.at(x, 0.0) for deep, wave in zip(limb.layers, limb.waves, strict=True)]
    layer = np.sum([folded > fascia for fascia in fasciae], axis=0)
    assert set(np.unique(layer)) == {0, 1, 2, 3, 4}
    compared = (y > limb.skin) & (before > 0.06)  # above the floor of the scattering
    expected = 10 ** (np.array(loud.brightness)[layer] / 20)
    np.testing.assert_allclose((after / before)[compared], expected[compared], rtol=1e-4)


def test_the_bone_of_a_section_is_the_nearest_of_the_limbs_bones(limb, points):
    x, y = points
    section = cut_section(limb, x, y, 2.0)
    slow = np.minimum(*(bone.level(x, y, 2.0) for bone in limb.bones))
    np.testing.assert_array_equal(section.bone, slow)


def test_sheets_are_skin_fasciae_septa_streaks_and_vessel_walls(limb, points):
    x, y = points
    section = cut_section(limb, x, y, 0.0)
    assert len(section.sheets) == len(limb.vessels) + 2 + 2 + len(limb.layers) + len(limb.septa)
    skin = section.sheets[len(limb.vessels)]
    np.testing.assert_array_equal(skin.level, y)


def test_no_fascia_or_streak_reflects_inside_bone_or_blood(limb, points):
    x, y = points
    section = cut_section(limb, x, y, 0.0)
    inside = section.bone < -0.5
    assert inside.sum() > 100
    fasciae = section.sheets[len(limb.vessels) + 4 :][: len(limb.layers)]
    assert all((sheet.strength[inside] == 0).all() for sheet in fasciae)


def test_layers_arch_over_a_bone_and_lie_flat_at_the_skin(limb):
    far = limb.bones[0].x - np.sign(limb.bones[1].x) * 60
    x = np.array([[limb.bones[0].x, far]], np.float32)
    at_skin, deep = (_arch(limb, x, np.full_like(x, y), 0.0) for y in (0.0, limb.bones[0].top))
    np.testing.assert_array_equal(at_skin, 0)
    assert deep[0, 0] > deep[0, 1]  # above the bone the layers reach higher


def test_the_mask_is_the_head_and_the_middle_of_its_bright_line(limb, points):
    x, y = points
    mask = bone_head_mask(limb, x, y, 0.0)
    levels = np.minimum(*(bone.head(x, y, 0.0) for bone in limb.bones))
    np.testing.assert_array_equal(mask, levels < EDGE)
    assert y[mask].min() == pytest.approx(min(b.top for b in limb.bones), abs=1.5)
