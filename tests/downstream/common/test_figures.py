"""Overlays, heat maps, grids of tiles and joined frames: what is painted where, and that it can be read."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.common.figures import (
    JoinedFrames,
    Tile,
    colors_by_name,
    grid,
    heat_map,
    joined_frames,
    overlay,
)
from vetdino.platform.measure.plots import COLORS


def test_nothing_found_and_no_truth_leave_the_frame_as_it_is():
    frame = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(
        overlay(frame, np.zeros((6, 8), bool), "#ff0000"), np.repeat(frame[..., None], 3, 2)
    )


def test_what_was_found_is_half_its_colour_and_the_rest_is_untouched():
    frame = np.full((6, 8), 100, np.uint8)
    result = np.zeros((6, 8), bool)
    result[2, 3] = True
    painted = overlay(frame, result, "#ff0000")
    assert painted[2, 3].tolist() == [178, 50, 50]
    assert (painted[~result] == 100).all()
    assert (frame == 100).all()


def test_the_truth_is_an_outline_and_not_a_filling():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    painted = overlay(np.zeros((40, 40), np.uint8), None, "#ff0000", truth)
    yellow = (painted == (255, 225, 77)).all(axis=2)
    assert yellow[10, 10:30].all()
    assert not yellow[15:25, 15:25].any()


def test_a_domain_has_the_same_colour_whatever_the_order():
    assert colors_by_name(["leg", "arm", "foot"]) == colors_by_name(["foot", "leg", "arm"])
    assert len(set(colors_by_name([f"domain {n}" for n in range(8)]).values())) == 8


def test_heat_rises_from_dark_to_light_and_is_even_where_there_is_nothing_to_tell():
    shown = heat_map(np.array([[0.0, 0.5, 1.0]])).astype(int).sum(axis=2)
    assert shown[0, 0] < shown[0, 1] < shown[0, 2]
    assert len(np.unique(heat_map(np.ones((2, 2))).reshape(-1, 3), axis=0)) == 1


@pytest.mark.slow
def test_a_grid_holds_rows_of_unequal_length_and_stays_readable(png_pixels, shows_color):
    tile = Tile(np.full((48, 64), 90, np.uint8), "block 12", "Dice 0.00")
    color = colors_by_name(["leg", "arm"])
    png = grid("Title", [("leg", color["leg"], [tile] * 3), ("arm", color["arm"], [tile])], "note")
    height, width, _ = png_pixels(png).shape
    assert width >= 3 * 150
    assert height >= 2 * 100
    assert shows_color(png, "#5a5a5a")
    assert all(shows_color(png, one, near=40) for one in color.values())


def test_places_that_belong_together_are_joined_in_the_colour_of_their_number(png_pixels, shows_color):
    left, right = np.full((60, 80, 3), 90, np.uint8), np.full((40, 80, 3), 90, np.uint8)
    places = np.array([[10.0, 20.0, 30.0, 70.0], [50.0, 60.0, 5.0, 50.0]])
    named = (("arm/1", "#0b62a8"), ("leg/2", "#c05a00"))
    both = joined_frames("Title", [JoinedFrames(left, right, named, places, "two")])
    none = joined_frames("Title", [JoinedFrames(left, right, named, places[:0])])
    red, green = (
        np.abs(png_pixels(both).astype(int) - tuple(bytes.fromhex(color[1:]))).max(axis=2) <= 6
        for color in COLORS[:2]
    )
    gray = np.flatnonzero((png_pixels(none) == 90).all(axis=2).any(axis=0))  # columns of the two frames
    for own in (red, green):
        across = np.flatnonzero(own.any(axis=0))
        assert across.min() < gray.mean() < across.max()
    assert not shows_color(none, COLORS[2])
    assert (
        png_pixels(joined_frames("T", [JoinedFrames(left, right, named, places)] * 2)).shape[0]
        > png_pixels(both).shape[0]
    )
