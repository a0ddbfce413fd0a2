"""The b-mode image: reflection, attenuation, shadow, dynamic range."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.limb.bmode import (
    SHADOW,
    _facing,
    _receiver_noise,
    _reflected,
    _transmission,
    echo_envelope,
    log_compressed,
    sample_positions,
)
from vetdino.platform.phantom.limb.limb import draw_limb
from vetdino.platform.phantom.limb.probe import CURVED, LINEAR, ProbePose
from vetdino.platform.phantom.limb.section import LimbSection, Sheet


def test_a_sheet_square_to_the_beam_outshines_a_slanted_one():
    x, y = sample_positions(LINEAR)
    flat, slanted = (Sheet(y - 20 - slope * x, 5.0, 0.3, 9) for slope in (0.0, 0.6))
    assert _reflected(flat, LINEAR).max() > 3 * _reflected(slanted, LINEAR).max()


def section_of(bone=None, attenuation: float = 0.0) -> LimbSection:
    """Uniform tissue under LINEAR: unit scatter, a bone level set, dB per cm."""
    _, y = sample_positions(LINEAR)
    ones = np.ones_like(y)
    return LimbSection(
        ones, 100 * ones if bone is None else bone, 22 * ones, (), np.float32(attenuation) * ones
    )


def test_samples_of_a_linear_probe_form_a_grid_and_those_of_a_curved_one_a_fan():
    x, y = sample_positions(LINEAR)
    np.testing.assert_array_equal(x, np.broadcast_to(LINEAR.beams, x.shape))
    np.testing.assert_array_equal(y, np.broadcast_to(LINEAR.samples[:, None], y.shape))
    x, y = sample_positions(CURVED)
    np.testing.assert_allclose(
        np.hypot(x, y + CURVED.radius),
        np.broadcast_to((CURVED.radius + CURVED.samples)[:, None], x.shape),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        np.arctan2(x, y + CURVED.radius), np.broadcast_to(CURVED.beams, x.shape), atol=1e-5
    )


@pytest.mark.parametrize("loss", [0.5, 2.0])
def test_tissue_attenuates_by_its_decibels_per_centimeter(loss):
    through, reverberation, lit = _transmission(LINEAR, section_of(attenuation=loss))
    decibels = 20 * np.log10(through[:, 100])
    slope = np.polyfit(LINEAR.samples / 10, decibels, 1)[0]
    assert slope == pytest.approx(-loss, rel=0.01)
    assert reverberation.max() < 1e-6
    assert lit.min() > 0.99


def test_behind_bone_lies_a_shadow_that_ends_at_its_edge():
    x, y = sample_positions(LINEAR)
    bone = np.maximum(15 - y, x)  # a half plane: bone below 15 mm on the left
    through, reverberation, lit = _transmission(LINEAR, section_of(bone))
    deep = int(35 / LINEAR.step)
    left, right = np.searchsorted(LINEAR.beams, (-12, 12))
    assert 20 * np.log10(through[deep, left]) == pytest.approx(-SHADOW, abs=2)
    assert through[deep, right] == pytest.approx(1, abs=1e-3)
    assert through[int(10 / LINEAR.step), left] == pytest.approx(
        1, abs=1e-3
    )  # above the bone nothing changes
    assert lit[deep, left] < 0.01
    assert reverberation[int(16 / LINEAR.step), left] > 0.01 > reverberation[deep, left]


def test_the_edge_of_a_shadow_is_softer_the_deeper_it_lies():
    x, y = sample_positions(LINEAR)
    through, _, _ = _transmission(LINEAR, section_of(np.maximum(10 - y, x)))

    def edge(depth: float) -> float:
        row = through[int(depth / LINEAR.step)]
        low, high = np.quantile(row, (0.02, 0.98))
        share = (row - low) / (high - low)
        return float(((share > 0.1) & (share < 0.9)).sum())

    assert edge(40) > 1.5 * edge(16)


def test_a_reflector_is_brightest_on_its_surface_and_as_strong_as_it_is():
    _, y = sample_positions(LINEAR)
    amplitude = _reflected(Sheet(y - 20, 5.0, 0.3, 9), LINEAR)
    assert amplitude.max() == pytest.approx(5, rel=0.01)
    assert LINEAR.samples[np.argmax(amplitude[:, 50])] == pytest.approx(20, abs=LINEAR.step)
    at_one_sigma = amplitude[np.argmin(np.abs(LINEAR.samples - 20.3)), 50]
    assert at_one_sigma == pytest.approx(5 * np.exp(-0.5), rel=0.05)


def test_facing_is_the_cosine_of_the_angle_of_incidence():
    x, y = sample_positions(LINEAR)
    for degrees in (0, 30, 60):
        level = y * np.cos(np.radians(degrees)) + x * np.sin(np.radians(degrees))
        np.testing.assert_allclose(_facing(level, LINEAR)[5:-5, 5:-5], np.cos(np.radians(degrees)), atol=1e-3)


def test_log_compression_runs_from_black_to_white_over_the_dynamic_range():
    white, dynamic = LINEAR.white, LINEAR.dynamic
    decibels = np.array([white + 10, white, white - dynamic / 2, white - dynamic, -300])
    gray = log_compressed(10 ** (decibels / 20), LINEAR)
    np.testing.assert_allclose(gray, [255, 255, 127.5, 0, 0], atol=1e-3)
    assert gray.dtype == np.float32


def test_the_receivers_noise_is_rayleigh_and_grows_with_depth():
    noise = _receiver_noise(LINEAR, np.random.default_rng(0))
    top, bottom = noise[:50], noise[-50:]
    assert bottom.mean() > 3 * top.mean()
    normalized = noise / noise.mean(1, keepdims=True)
    assert normalized.mean() / normalized.std() == pytest.approx(1.91, abs=0.03)


def test_an_envelope_over_gel_is_noise_and_over_a_limb_has_speckle():
    limb = draw_limb("arm", np.random.default_rng(0), np.random.default_rng(1))
    lifted = ProbePose(0.0, 0.0, 0.0, 0.0, (0.0, 200.0, 0.0))  # nothing but gel
    held = ProbePose(0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    gel, tissue = (echo_envelope(LINEAR, limb, pose, np.random.default_rng(2)) for pose in (lifted, held))
    rows = slice(int(4 / LINEAR.step), int(9 / LINEAR.step))
    assert tissue[rows].mean() > 20 * gel[rows].mean()
