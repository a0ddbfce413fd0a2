"""Probes: beams, resolution, and where they lie on a limb."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.platform.phantom.limb.bmode import sample_positions
from vetdino.platform.phantom.limb.probe import (
    BEND,
    CURVED,
    LINEAR,
    ProbePose,
    UltrasoundProbe,
    limb_coordinates,
)


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curved"])
def test_the_skin_lies_along_the_probe_and_depth_grows_with_depth(probe):
    pose = ProbePose(x=1.0, z=0.0, tilt=0.05, press=0.08, gel=(0.0, 0.0, 0.0))
    x, y = sample_positions(probe)
    _, deep = limb_coordinates(probe, pose, x, y)
    assert np.abs(deep[0]).max() < 0.01
    assert (np.diff(deep, axis=0) > 0).all()
    _, under_gel = limb_coordinates(probe, replace(pose, gel=(0.0, 2.0, 0.0)), x, y)
    assert under_gel[0].max() < -1.9
    assert np.abs(under_gel - deep)[-1].max() < 0.4  # bones stay where they were


def test_resolution_follows_from_frequency_and_f_number():
    probe = UltrasoundProbe(megahertz=7.7, f_number=2.0, focus=25.0)
    assert probe.wavelength == pytest.approx(0.2)
    full_width = 2.355 * probe.lateral(np.array([25.0]))[0]
    assert full_width == pytest.approx(0.2 * 2.0)  # wavelength x f-number
    assert 2.355 * probe.axial == pytest.approx(2.5 * 0.2 / 2)
    widths = probe.lateral(np.arange(1, 60.0))
    assert np.argmin(widths) == 24
    assert (np.diff(widths[24:]) > 0).all()


def test_beams_are_dense_enough_and_fan_out_on_a_curved_probe():
    depth = np.array([0.0, 28.0, 56.0])
    assert len(set(LINEAR.pitch(depth))) == 1
    assert np.abs(LINEAR.beams).max() == pytest.approx(LINEAR.width / 2)
    pitch = CURVED.pitch(depth)
    np.testing.assert_allclose(pitch / pitch[0], (CURVED.radius + depth) / CURVED.radius)
    assert np.abs(CURVED.beams).max() == pytest.approx(CURVED.angle)
    for probe in (LINEAR, CURVED):
        focus = np.array([probe.focus])
        assert probe.pitch(focus)[0] < 2.355 * probe.lateral(focus)[0]


def test_tilt_shears_and_pressure_compresses_what_lies_near_the_skin():
    x, y = np.meshgrid(np.linspace(-10, 10, 21, dtype=np.float32), np.linspace(0, 40, 81, dtype=np.float32))
    upright = ProbePose(x=2.0, z=0.0, tilt=0.0, press=0.0, gel=(0.0, 0.0, 0.0))
    along, deep = limb_coordinates(LINEAR, upright, x, y)
    np.testing.assert_allclose(along, x + 2)
    np.testing.assert_allclose(deep, y, atol=1e-6)
    along, deep = limb_coordinates(LINEAR, replace(upright, tilt=0.1), x, y)
    np.testing.assert_allclose(along, x + 2 + np.tan(0.1) * y, rtol=1e-5, atol=1e-5)
    _, pressed = limb_coordinates(LINEAR, replace(upright, press=0.2), x, y)
    moved = (pressed - y)[:, 0]
    assert moved[0] == 0
    assert (np.diff(moved) >= 0).all()
    assert moved[-1] == pytest.approx(0.2 * BEND, rel=0.05)  # tissue of that thickness is pressed away
