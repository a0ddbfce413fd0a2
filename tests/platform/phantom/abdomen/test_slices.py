"""Slices before the scanner: partial volume, texture, contents."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.abdomen.ct import HOUNSFIELD
from vetdino.platform.phantom.abdomen.mri import T2
from vetdino.platform.phantom.abdomen.patient import LAYERS, ScanGrid
from vetdino.platform.phantom.abdomen.slices import enlarged, tissue_image
from vetdino.platform.phantom.abdomen.tissues import Tissue, TissueVolume


def test_both_scanners_know_every_tissue():
    assert set(HOUNSFIELD) == set(T2) == set(Tissue)


GRID = ScanGrid(48, 4.0, 4, 6.0, 0.0, (0.0, 0.0))
PLAIN = {tissue: (float(tissue), 0.0, 0.0) for tissue in Tissue}
"""A value for each tissue, without spread or texture."""


def volume_of(tissue_THW: np.ndarray) -> TissueVolume:
    return TissueVolume(tissue_THW, np.zeros((4, 48, 48), np.uint8), np.zeros(tissue_THW.shape, np.float32))


def test_a_slice_is_the_mean_of_its_layers():
    tissue = np.full((4 * LAYERS, 48, 48), Tissue.MUSCLE, np.uint8)
    tissue[3:5] = Tissue.LIVER  # two of the three layers of the second slice
    image = tissue_image(volume_of(tissue), GRID, PLAIN, np.zeros(tissue.shape), 0, np.random.default_rng(0))
    assert image.dtype == np.float32
    means = (Tissue.MUSCLE, (2 * Tissue.LIVER + Tissue.MUSCLE) / 3, Tissue.MUSCLE, Tissue.MUSCLE)
    np.testing.assert_allclose(image, np.broadcast_to(np.array(means)[:, None, None], image.shape), rtol=1e-5)


def test_contents_add_to_bowel_alone():
    tissue = np.full((4 * LAYERS, 48, 48), Tissue.BOWEL_CONTENT, np.uint8)
    tissue[:, :, 24:] = Tissue.MUSCLE
    image = tissue_image(
        volume_of(tissue), GRID, PLAIN, np.full(tissue.shape, 7.0), 0, np.random.default_rng(0)
    )
    np.testing.assert_allclose(image[:, :, :20], Tissue.BOWEL_CONTENT + 7, rtol=1e-5)
    np.testing.assert_allclose(image[:, :, 28:], Tissue.MUSCLE, rtol=1e-5)


def test_texture_and_the_spread_between_patients_have_their_sizes():
    tissue = np.full((4 * LAYERS, 48, 48), Tissue.LIVER, np.uint8)
    table = PLAIN | {Tissue.LIVER: (100.0, 0.0, 5.0)}
    zero = np.zeros(tissue.shape)
    image = tissue_image(volume_of(tissue), GRID, table, zero, 0, np.random.default_rng(0))
    assert image.mean() == pytest.approx(100, abs=3)
    assert 1.5 < image.std() < 8
    spread = PLAIN | {Tissue.LIVER: (100.0, 10.0, 0.0)}
    means = [
        tissue_image(volume_of(tissue), GRID, spread, zero, 0, np.random.default_rng(s)).mean()
        for s in range(12)
    ]
    assert 4 < np.std(means) < 14
    assert max(abs(mean - 100) for mean in means) <= 17.01


def test_enlarging_keeps_a_constant_and_the_edges_of_the_slice():
    assert (enlarged(np.full((2, 6, 6), 3.0), 24) == 3).all()
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 6, 6))
    large = enlarged(ramp, 24)[0, 0]
    np.testing.assert_allclose(large.reshape(6, 4).mean(1)[1:-1], np.arange(6)[1:-1], atol=1e-5)
