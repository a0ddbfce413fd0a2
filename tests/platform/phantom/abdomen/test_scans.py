"""Scans in memory: patients and grids differ, bytes repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.platform.phantom.abdomen.generated import EIGHT, SMALL, center, scan
from vetdino.platform.phantom.abdomen.patient import LAYERS
from vetdino.platform.phantom.abdomen.scans import generate_scan


def test_two_patients_differ_in_form_place_and_grid():
    ones = [scan(*which) for which in EIGHT]
    assert len({one.grid for one in ones}) == len({one.patient for one in ones}) == len(EIGHT)
    assert len({one.image_ZHW.shape for one in ones}) > 4
    assert len({one.stored for one in ones}) > 1
    middles = np.array([center(one, "right kidney") for one in ones])
    assert (middles.std(0) > 2).all()
    assert all(24 <= one.grid.slices <= 40 and 5.5 <= one.grid.thickness <= 8 for one in ones)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scan_and_another_seed_another_anatomy():
    one, two, other = (generate_scan(replace(SMALL, seed=seed), "ct", 1) for seed in (2, 2, 3))
    assert one.image_ZHW.tobytes() == two.image_ZHW.tobytes()
    assert one.labels_ZHW.tobytes() == two.labels_ZHW.tobytes()
    assert one.patient != other.patient
    assert one.labels_ZHW.shape != other.labels_ZHW.shape or (one.labels_ZHW != other.labels_ZHW).any()


def test_the_affine_places_voxels_in_ras():
    made = scan("ct", 1)
    z, y, x = made.grid.axes(made.grid.side)
    corner = made.affine @ (0, 0, 0, 1)
    np.testing.assert_allclose(corner[:3], (-x[0], -y[0], z[LAYERS // 2]), atol=1e-3)
    top = made.affine @ (0, 0, made.grid.slices - 1, 1)
    assert top[2] == pytest.approx(made.grid.top, abs=1e-3)


@pytest.mark.slow
def test_the_field_of_view_holds_the_patient():
    for which in EIGHT:
        made = scan(*which)
        border = np.concatenate([made.labels_ZHW[:, [0, -1]].ravel(), made.labels_ZHW[:, :, [0, -1]].ravel()])
        assert not border.any()
