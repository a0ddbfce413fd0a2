"""Textures: normal, as coarse as they are specified, fixed to the tissue, smooth along the limb."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.limb.textures import GRAIN_SIZES, SLICE_DISTANCE, STEP, TILE, texture

X, Y = np.meshgrid(np.arange(0, 100, 0.25, dtype=np.float32), np.arange(0, 60, 0.25, dtype=np.float32))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("number", range(len(GRAIN_SIZES)))
def test_a_texture_has_unit_variance_and_the_correlation_of_its_grain(number):
    field = texture((1, 2), number, X, Y, 0.0)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=0.2)
    assert field.std() == pytest.approx(1, abs=0.2)
    length, height = GRAIN_SIZES[number]
    # White noise under a Gaussian of standard deviation s has the correlation exp(-d^2 / 4 s^2).
    for size, pair in (
        (length, lambda d: (field[:, d:], field[:, :-d])),
        (height, lambda d: (field[d:], field[:-d])),
    ):
        lag = max(1, round(size / 0.25))
        expected = np.exp(-((lag * 0.25) ** 2) / (4 * size**2))
        assert correlation(*pair(lag)) == pytest.approx(expected, abs=0.12)


def test_a_texture_moves_with_the_tissue_and_repeats_after_its_tile():
    field = texture((1, 2), 0, X, Y, 0.0)
    np.testing.assert_allclose(texture((1, 2), 0, X + 5, Y, 0.0)[:, :-20], field[:, 20:], atol=1e-5)
    wide, tall = TILE[1] * STEP, TILE[0] * STEP
    np.testing.assert_allclose(texture((1, 2), 0, X + wide, Y + tall, 0.0), field, atol=1e-3)


def test_a_texture_changes_smoothly_along_the_limb_and_is_another_further_on():
    here = texture((1, 2), 1, X, Y, 1.0)
    assert correlation(here, texture((1, 2), 1, X, Y, 1.2)) > 0.99
    assert abs(correlation(here, texture((1, 2), 1, X, Y, 1.0 + 3 * SLICE_DISTANCE))) < 0.3
    before, after = (texture((1, 2), 1, X, Y, SLICE_DISTANCE + shift) for shift in (-1e-4, 1e-4))
    np.testing.assert_allclose(before, after, atol=1e-3)


def test_seeds_and_numbers_give_independent_textures():
    one = texture((1, 2), 0, X, Y, 0.0)
    assert abs(correlation(one, texture((1, 3), 0, X, Y, 0.0))) < 0.1
    assert abs(correlation(one, texture((1, 2), 2, X, Y, 0.0))) < 0.1
