"""CT scans are in Hounsfield units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.platform.phantom.abdomen.generated import NUMBER, median, scan
from vetdino.platform.phantom.abdomen.ct import _draw_table, _gas_streaks, ct_image
from vetdino.platform.phantom.abdomen.patient import LAYERS, ScanGrid
from vetdino.platform.phantom.abdomen.tissues import Tissue, TissueVolume


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 5))
def test_a_ct_scan_is_in_hounsfield_units(number):
    made = scan("ct", number)
    gray = {name: median(made, name) for name in NUMBER}
    assert made.image_ZHW.dtype == np.int16
    assert made.image_ZHW.min() >= -1024
    assert np.median(made.image_ZHW[:, 0]) == pytest.approx(-1000, abs=15)
    assert 48 < gray["liver"] < 76
    assert 38 < gray["spleen"] < gray["liver"]
    assert -25 < gray["gallbladder"] < gray["spleen"]
    assert min(gray["right kidney"], gray["left kidney"], gray["aorta"]) > gray["liver"] + 20
    assert gray["spine"] > 130
    inner = ndimage.binary_dilation(made.labels_ZHW > 0, iterations=6) & (made.labels_ZHW == 0)
    fat = made.image_ZHW[inner & (np.abs(made.image_ZHW + 100) < 40)]
    assert fat.size > 500
    assert np.median(fat) == pytest.approx(-98, abs=15)
    assert (made.image_ZHW[ndimage.binary_dilation(made.labels_ZHW > 0, iterations=25)] < -700).sum() > 50


def body(side: int = 96) -> tuple[TissueVolume, ScanGrid]:
    """A cylinder of muscle in air."""
    grid = ScanGrid(side, 400 / side, 3, 6.0, 0.0, (0.0, 0.0))
    _, y, x = grid.axes(side)
    disc = np.hypot(x[None], y[:, None]) < 130
    tissue = np.broadcast_to(
        np.where(disc, Tissue.MUSCLE, Tissue.AIR).astype(np.uint8), (3 * LAYERS, side, side)
    )
    return TissueVolume(tissue, np.zeros((3, side, side), np.uint8), np.zeros(tissue.shape, np.float32)), grid


def test_noise_is_higher_in_the_middle_of_a_body_than_outside_it():
    volume, grid = body()
    scans = [ct_image(volume, grid, np.random.default_rng(seed)) for seed in range(6)]
    noise = np.median([np.abs(np.diff(scan, axis=2)) for scan in scans], axis=(0, 1))
    assert noise[44:52, 44:52].mean() > 1.3 * noise[2:6, 2:40].mean()  # above the body rays cross air


def test_the_table_lies_behind_the_patient_in_air_alone():
    volume, grid = body()
    image = np.full((3, 96, 96), -1000, np.float32)
    _draw_table(image, volume, grid, np.random.default_rng(0))
    _, y, x = grid.axes(96)
    middle = image[:, :, np.abs(x) < 40]  # its sides rise beside the patient
    assert y[(middle > -900).any((0, 2))].min() > 130
    assert (image[:, volume.tissue_THW[1] == Tissue.MUSCLE] == -1000).all()
    assert -420 - 1 <= image.max() <= -200


def test_streaks_leave_gas_fade_with_distance_and_spare_slices_without_gas():
    _, grid = body()
    gas = np.zeros((96, 96), bool)
    assert not _gas_streaks(gas, grid, np.random.default_rng(0)).any()
    gas[45:51, 45:51] = True
    streaks = [_gas_streaks(gas, grid, np.random.default_rng(seed)) for seed in range(20)]
    near, far = (np.mean([np.abs(s[rows]).mean() for s in streaks]) for rows in (slice(36, 60), slice(0, 8)))
    assert near > 4 * far > 0
