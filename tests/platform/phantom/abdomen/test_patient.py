"""Patients and the grids of their scans."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.abdomen.patient import LAYERS, ScanGrid, draw_patient


def test_a_grids_pixels_share_their_edges_with_its_cells_and_layers_surround_their_slice():
    grid = ScanGrid(64, 5.0, 10, 6.0, 90.0, (3.0, -2.0))
    (z, y, x), (_, coarse, _) = grid.axes(64), grid.axes(16)
    assert y.reshape(16, 4).mean(1) == pytest.approx(coarse)
    assert (x.mean(), y.mean()) == pytest.approx((3.0, -2.0), abs=1e-4)
    assert z.reshape(10, LAYERS).mean(1) == pytest.approx(90 - 6.0 * np.arange(10)[::-1])
    assert np.diff(z) == pytest.approx(2.0, abs=1e-4)


def test_patients_differ_within_bounds():
    patients = [draw_patient(np.random.default_rng(seed)) for seed in range(200)]
    fat = [patient.fat for patient in patients]
    assert 4 <= min(fat) < 6
    assert 25 < max(fat) <= 38
    scales = np.array([patient.scale for patient in patients])
    assert scales.min() > 0.8
    assert scales.max() < 1.3
    assert all(abs(angle) <= 8 for patient in patients for angle in patient.turn)
    assert len(set(patients)) == 200
