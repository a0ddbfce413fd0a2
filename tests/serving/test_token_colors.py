"""Patch tokens as colors: alike where tokens are, across views, and the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    rows = tokens(3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    found = token_colors([rows], [GRID])
    np.testing.assert_allclose(found.shares, (values**2 / (values**2).sum())[:3], rtol=1e-4)
    projected = (unit - unit.mean(0)) @ axes[:3].T
    for component in range(3):
        correlation = np.corrcoef(projected[:, component], found.rgb[0][:, component])[0, 1]
        assert abs(correlation) > 0.99


def test_the_border_of_a_view_takes_no_part():
    rows = tokens(5)
    loud = rows.copy()
    loud[~TALL.inside()] = np.random.default_rng(9).normal(0, 50, (int((~TALL.inside()).sum()), 12))
    calm, other = token_colors([rows], [TALL]), token_colors([loud], [TALL])
    np.testing.assert_array_equal(calm.rgb[0][TALL.inside()], other.rgb[0][TALL.inside()])
    assert calm.shares == other.shares


def test_the_length_of_a_token_and_the_order_of_views_mean_nothing():
    views = [tokens(0), tokens(1)]
    found = token_colors(views, [GRID, GRID])
    scaled = token_colors([views[0] * 7, views[1] * 0.5], [GRID, GRID])
    turned = token_colors(views[::-1], [GRID, GRID])
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


def body(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a view whose outer patches are all of one kind, and which patches are within: four kinds of others."""
    random = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(64), 8)
    within = (np.abs(row - 3.5) < 3) & (np.abs(column - 3.5) < 3)
    kinds = np.eye(5, 12)[np.where(within, 1 + np.arange(64) % 4, 0)] * 2
    kinds[within, 7] += 3  # what the body's patches have in common
    return (kinds + random.normal(0, 0.03, (64, 12))).astype(np.float32), within


def test_without_the_background_colors_tell_the_rest_apart():
    (first, within), (second, _) = body(0), body(1)
    found = token_colors([first, second], [GRID, GRID], background=False)
    for shown in found.shown:
        np.testing.assert_array_equal(shown, within)
    whole = token_colors([first, second], [GRID, GRID])
    assert all(shown.all() for shown in whole.shown)
    kinds = np.flatnonzero(within) % 4

    def spread(rgb: np.ndarray) -> float:
        colors = rgb[within].astype(float)
        return float(np.var([colors[kinds == kind].mean(0) for kind in range(4)], axis=0).sum())

    assert spread(found.rgb[0]) > 1.2 * spread(whole.rgb[0])


def test_a_view_that_is_all_of_one_kind_keeps_its_colors():
    rows = np.tile(tokens(0)[:1], (64, 1))
    rows[9] += 1.0  # one patch alone is not what there is to see
    found = token_colors([rows], [GRID], background=False)
    assert found.shown[0].all()


@given(
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 4),
    width=st.integers(1, 9),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    scale=st.sampled_from([0.0, 1e-9, 1.0, 1e9]),
    background=st.booleans(),
)
def test_any_tokens_have_colors(seed, views, width, size, scale, background):
    random = np.random.default_rng(seed)
    grid = PatchGrid(height=size[0], width=size[1], side=64, patch=8)
    rows = [(scale * random.normal(size=(64, width))).astype(np.float32) for _ in range(views)]
    found = token_colors(rows, [grid] * views, background=background)
    again = token_colors(rows, [grid] * views, background=background)
    for number in range(views):
        assert (found.rgb[number].shape, found.rgb[number].dtype) == ((64, 3), np.uint8)
        np.testing.assert_array_equal(found.rgb[number], again.rgb[number])
        assert found.shown[number].any() or not background
        assert not (found.shown[number] & ~grid.inside()).any() or not grid.inside().any()
    assert sum(found.shares) <= 1 + 1e-9
