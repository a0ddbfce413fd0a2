"""MRI scans have the contrast, noise and gain of a fat-suppressed T2 sequence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.platform.phantom.abdomen.generated import NUMBER, median, scan
from vetdino.platform.phantom.abdomen.mri import mri_image
from vetdino.platform.phantom.abdomen.patient import LAYERS, ScanGrid
from vetdino.platform.phantom.abdomen.tissues import Tissue, TissueVolume


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 5))
def test_an_mri_scan_has_the_contrast_of_t2_without_fat(number):
    made = scan("mri", number)
    gray = {name: median(made, name) for name in NUMBER}
    assert made.image_ZHW.dtype == np.int16
    assert made.image_ZHW.min() >= 0
    assert gray["gallbladder"] > 1.15 * gray["spleen"]
    assert gray["spleen"] > 1.3 * gray["liver"]
    assert min(gray["right kidney"], gray["left kidney"]) > 1.3 * gray["liver"]
    assert gray["spine"] < gray["liver"]
    corner = made.image_ZHW[:, :6, :6].astype(float)
    assert 0 < corner.mean() < 0.2 * gray["liver"]
    assert corner.mean() / corner.std() == pytest.approx(1.91, abs=0.25)  # Rayleigh: Rician with no signal


def test_slices_of_an_mri_scan_differ_in_gain():
    made = scan("mri", 1)
    liver = made.labels_ZHW == NUMBER["liver"]
    means = np.array([made.image_ZHW[z][liver[z]].mean() for z in np.flatnonzero(liver.sum((1, 2)) > 60)])
    wobble = np.abs(np.diff(means, 2)) / means[1:-1]
    assert 0.02 < np.median(wobble) < 0.4


@pytest.mark.slow
def test_vessels_stand_out_in_the_liver():
    made = scan("mri", 2, 128)
    liver = ndimage.binary_erosion(made.labels_ZHW == NUMBER["liver"], np.ones((1, 5, 5)))
    ratios = [made.image_ZHW[z][liver[z]] / np.median(made.image_ZHW[z][liver[z]]) for z in range(6, 18)]
    assert 0.005 < (np.concatenate(ratios) > 1.3).mean() < 0.12


def test_air_in_an_mri_scan_is_rayleigh_and_the_signal_of_water_far_above_it():
    grid = ScanGrid(64, 5.0, 4, 6.0, 0.0, (0.0, 0.0))
    tissue = np.zeros((4 * LAYERS, 64, 64), np.uint8)
    tissue[:, 20:44, 20:44] = Tissue.LIQUOR
    volume = TissueVolume(tissue, np.zeros((4, 64, 64), np.uint8), np.zeros(tissue.shape, np.float32))
    image = mri_image(volume, grid, np.random.default_rng(3))
    assert image.min() >= 0
    air = image[:, :12, 50:]  # beside the column that ghosts repeat
    assert air.mean() / air.std() == pytest.approx(1.91, abs=0.1)
    assert image[:, 26:38, 26:38].mean() > 20 * air.mean()


def test_ghosts_repeat_the_body_along_the_rows():
    grid = ScanGrid(64, 5.0, 2, 6.0, 0.0, (0.0, 0.0))
    tissue = np.zeros((2 * LAYERS, 64, 64), np.uint8)
    tissue[:, 28:36, 28:36] = Tissue.LIQUOR
    volume = TissueVolume(tissue, np.zeros((2, 64, 64), np.uint8), np.zeros(tissue.shape, np.float32))
    scans = [mri_image(volume, grid, np.random.default_rng(seed)) for seed in range(12)]
    power = lambda columns: np.mean(
        [(scan[:, 14:26, columns] ** 2).mean() / scan.max() ** 2 for scan in scans]
    )
    assert power(slice(29, 35)) > 1.15 * power(slice(4, 10))
