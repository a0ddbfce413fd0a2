"""Scores drawn to the edges of an image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vetdino.downstream.fewshot.method.edges import SATURATION, edge_aligned
from vetdino.downstream.fewshot.method.protocol import dice


def disk(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:128, :128]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_a_coarse_mask_moves_to_the_edge_of_its_organ():
    organ = disk(61, 66, 22)
    noise = np.random.default_rng(0).normal(0, 0.1, (128, 128))
    image = (2.0 * organ - 1 + noise).astype(np.float32)
    coarse = cv2.resize(
        cv2.resize(disk(63, 65, 21).astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA), (128, 128)
    )
    margin = 8 * coarse - 4
    before, after = dice(margin > 0, organ), dice(edge_aligned(margin, image, 5) > 0, organ)
    assert after > max(0.95, before + 0.04)


def test_without_edges_scores_are_averaged_around_each_pixel():
    margin = np.random.default_rng(1).normal(0, 1, (40, 40)).astype(np.float32)
    blank = np.zeros((40, 40), np.float32)
    box = (5, 5)
    twice = cv2.boxFilter(np.tanh(margin / SATURATION), -1, box, borderType=cv2.BORDER_REFLECT)
    twice = cv2.boxFilter(twice, -1, box, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(np.tanh(edge_aligned(margin, blank, 2) / SATURATION), twice, atol=1e-5)


@pytest.mark.parametrize("value", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_equal_scores_stay_as_they_are_and_extremes_are_cut(value):
    image = np.random.default_rng(2).normal(0, 1, (30, 30)).astype(np.float32)
    aligned = edge_aligned(np.full((30, 30), value, np.float32), image, 3)
    expected = np.clip(value, -SATURATION * np.arctanh(0.999), SATURATION * np.arctanh(0.999))
    np.testing.assert_allclose(aligned, expected, atol=2e-2)
