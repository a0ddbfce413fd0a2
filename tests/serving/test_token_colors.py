"""Patch tokens as colors: alike where tokens are, across views, and the same in every run."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.models.similarity import PatchGrid
from vetdino.serving.token_colors import token_colors

GRID = PatchGrid(height=64, width=64, side=64, patch=8)
TALL = PatchGrid(height=64, width=32, side=64, patch=8)


def tokens(seed: int, count: int = 64) -> np.ndarray:
    """Four kinds of patches, with a little noise."""
    random = np.random.default_rng(seed)
    kinds = np.eye(4, 12) * 3
    return (kinds[np.arange(count) % 4] + random.normal(0, 0.05, (count, 12))).astype(np.float32)


def test_alike_tokens_have_alike_colors_in_all_views():
    found = token_colors([tokens(0), tokens(1)], [GRID, GRID])
    assert [rgb.shape for rgb in found.rgb] == [(64, 3), (64, 3)]
    first, second = (rgb.astype(int) for rgb in found.rgb)
    for kind in range(4):
        same = np.abs(first[kind::4].mean(0) - second[kind::4].mean(0)).max()
        others = [np.abs(first[kind::4].mean(0) - second[other::4].mean(0)).max() for other in range(4)]
        assert same < 12
        assert sorted(others)[1] > 60
    assert sum(found.shares) > 0.9


def test_components_are_those_of_a_plain_svd():
    given = tokens(3)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    found = token_colors([given], [GRID])
    np.testing.assert_allclose(found.shares, (values**2 / (values**2).sum())[:3], rtol=1e-4)
    projected = (unit - unit.mean(0)) @ axes[:3].T
    for component in range(3):
        correlation = np.corrcoef(projected[:, component], found.rgb[0][:, component])[0, 1]
        assert abs(correlation) > 0.99


def test_the_border_of_a_view_takes_no_part():
    given = tokens(5)
    loud = given.copy()
    loud[~TALL.inside()] = np.random.default_rng(9).normal(0, 50, (int((~TALL.inside()).sum()), 12))
    calm, other = token_colors([given], [TALL]), token_colors([loud], [TALL])
    np.testing.assert_array_equal(calm.rgb[0][TALL.inside()], other.rgb[0][TALL.inside()])
    assert calm.shares == other.shares


def test_the_length_of_a_token_and_the_order_of_views_mean_nothing():
    given = [tokens(0), tokens(1)]
    found = token_colors(given, [GRID, GRID])
    scaled = token_colors([given[0] * 7, given[1] * 0.5], [GRID, GRID])
    turned = token_colors(given[::-1], [GRID, GRID])
    for number in (0, 1):
        assert np.abs(found.rgb[number].astype(int) - scaled.rgb[number]).max() <= 1
        assert np.abs(found.rgb[number].astype(int) - turned.rgb[1 - number]).max() <= 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_tokens_are_gray(value):
    found = token_colors([np.full((64, 12), value, np.float32)], [GRID])
    assert (found.rgb[0] == 127).all()


def test_a_token_of_two_numbers_has_two_components():
    found = token_colors([tokens(0)[:, :2]], [GRID])
    assert (found.rgb[0][:, 2] == 127).all()
    assert len(found.shares) == 2
