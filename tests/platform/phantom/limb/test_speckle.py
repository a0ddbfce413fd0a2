"""Speckle: Rayleigh statistics, and blurs against slow sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from vetdino.platform.phantom.limb.probe import CURVED, LINEAR
from vetdino.platform.phantom.limb.speckle import blurred_across, pulse_blurred, scatterers, speckle_gain


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curved"])
def test_the_envelope_over_even_tissue_is_rayleighs(probe):
    random = np.random.default_rng(0)
    shape = (len(probe.samples), len(probe.beams))
    parts = random.standard_normal((*shape, 2), np.float32) * np.float32(0.5**0.5)
    noise = parts.view(np.complex64)[..., 0]
    envelope = np.abs(pulse_blurred(noise * speckle_gain(probe), probe))
    inner = envelope[20:-20, 10:-10]
    assert inner.mean() / inner.std() == pytest.approx(1.91, abs=0.06)
    assert (inner**2).mean() == pytest.approx(1, abs=0.05)  # the pulse takes no power, at no depth
    for band in np.array_split(inner, 4):
        assert (band**2).mean() == pytest.approx(1, abs=0.12)
    apart = inner[::12, ::12].ravel()
    assert stats.kstest(apart, stats.rayleigh(scale=0.5**0.5).cdf).pvalue > 1e-3


def test_a_blur_by_depth_is_the_slow_sum_row_by_row():
    random = np.random.default_rng(1)
    field, sigma = random.standard_normal((5, 60)), np.array([1.3, 1.6, 2.0, 3.1, 4.0])
    fast = blurred_across(field, sigma)
    for row, width in enumerate(sigma):
        for column in range(20, 40):
            far = np.arange(60) - column
            weights = np.exp(-0.5 * (far / width) ** 2)
            assert fast[row, column] == pytest.approx((weights / weights.sum()) @ field[row], abs=2e-3)


def test_speckle_is_coarser_across_than_along_and_coarser_away_from_the_focus():
    def width(row: np.ndarray) -> float:
        """Samples between a row and itself until half of it is another."""
        spectrum = np.abs(np.fft.fft(row - row.mean())) ** 2
        likeness = np.fft.ifft(spectrum).real
        return float(np.argmax(likeness < likeness[0] / 2))

    random = np.random.default_rng(2)
    probe = replace(LINEAR, depth=80.0)
    shape = (len(probe.samples), len(probe.beams))
    noise = (random.standard_normal((*shape, 2), np.float32)).view(np.complex64)[..., 0]
    envelope = np.abs(pulse_blurred(noise, probe))
    pitch = float(probe.pitch(probe.samples)[0])
    at = [int(depth / probe.step) for depth in (probe.focus, 75.0)]
    near, far = (np.mean([width(row) for row in envelope[k - 60 : k + 60]]) * pitch for k in at)
    along = np.mean([width(column) for column in envelope.T[:60]]) * probe.step
    assert along < near < far


def test_the_gain_keeps_the_power_of_scatterers_at_every_depth():
    probe = CURVED
    gain = speckle_gain(probe)[:, 0]
    assert gain.shape == probe.samples.shape
    wide = probe.lateral(probe.samples) / probe.pitch(probe.samples)  # beams within a pulse
    np.testing.assert_allclose(gain**2, 4 * np.pi * wide * probe.axial / probe.step, rtol=1e-5)


def test_a_point_becomes_a_pulse_of_the_probes_resolution():
    probe = LINEAR
    field = np.zeros((len(probe.samples), len(probe.beams)), np.complex64)
    row, column = int(probe.focus / probe.step), len(probe.beams) // 2
    field[row, column] = 1
    pulse = pulse_blurred(field, probe).real.astype(float)
    near = slice(row - 20, row + 21), slice(column - 40, column + 41)
    pulse, samples, beams = pulse[near], probe.samples[near[0]], probe.beams[near[1]]
    depth, place = (samples - probe.samples[row])[:, None], beams - probe.beams[column]
    assert pulse.sum() == pytest.approx(1, abs=0.02)
    assert np.sqrt((pulse * depth**2).sum() / pulse.sum()) == pytest.approx(probe.axial, rel=0.05)
    width = np.sqrt((pulse * place**2).sum() / pulse.sum())
    assert width == pytest.approx(probe.lateral(np.array([probe.focus]))[0], rel=0.05)


def test_scatterers_are_circular_normal_move_with_the_limb_and_change_along_it():
    x, y = np.meshgrid(np.arange(0, 30, 0.12, dtype=np.float32), np.arange(0, 20, 0.08, dtype=np.float32))
    here, shifted, near, far, look = (
        scatterers((5,), x + dx, y, z, n)
        for dx, z, n in ((0, 0.0, 0), (1.2, 0.0, 0), (0, 0.2, 0), (0, 9.0, 0), (0, 0.0, 1))
    )
    assert here.mean() == pytest.approx(0, abs=0.02)
    assert (np.abs(here) ** 2).mean() == pytest.approx(1, abs=0.03)
    assert (here**2).mean() == pytest.approx(
        0, abs=0.03
    )  # real and imaginary parts are independent and alike
    assert (here[:, 10:] == shifted[:, :-10]).mean() > 0.9
    likeness = [abs(np.vdot(here, other)) / here.size for other in (near, far, look)]
    assert likeness[0] > 0.9
    assert max(likeness[1:]) < 0.05


@pytest.mark.parametrize("kind", [float, complex])
def test_a_blur_keeps_the_kind_and_a_constant(kind):
    field = np.full((3, 40), 2 + 0j if kind is complex else 2.0)
    blurred = blurred_across(field, np.array([0.5, 2.0, 6.0]))
    assert np.iscomplexobj(blurred) == (kind is complex)
    np.testing.assert_allclose(blurred, field, atol=1e-6)
